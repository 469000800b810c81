# cython: cdivision=True, boundscheck=False
# `pyrunc-oci`: the runtime that other engines call. Native where a verb is plain; else it becomes Python.
#
#   who calls whom              argv behind the name
#   anyone                      as runc's
#   Python -> front door        :plan <descriptor>           do what the plan says
#   front door -> itself        :sealed <path> <n> <argv>    the same, from an executable that nobody can write;
#                                                            n - 1 is the descriptor on which the planner answers
#   front door -> Python        the same as it was called with; or :failed …, what has failed

from pyrunc._native.linux cimport *
from pyrunc._native.oci_arguments cimport *
from pyrunc._native.oci_plan cimport oci_run_plan
from pyrunc._native.oci_planner cimport *
from pyrunc._native.oci_python cimport *
from pyrunc._native.oci_seal cimport *
from pyrunc._native.oci_system cimport *
from pyrunc._native.oci_verbs cimport *


cdef inline bint fill_streams() noexcept nogil:
    """See that 0, 1 and 2 are open: what is opened next were the program's stream otherwise, and of the host's."""
    cdef int fd
    for fd in range(3):
        if fcntl(fd, F_GETFD) < 0 and openat(AT_FDCWD, b"/dev/null", O_RDWR) != fd:
            return False
    return True


cdef inline int front_door(int argc, char **argv) noexcept nogil:
    """One command of pyrunc-oci; its exit code."""
    cdef oci_place here
    cdef oci_words words
    cdef const char **line = <const char **>argv
    cdef ssize_t length
    cdef int answer = -1
    cdef bint sealed = False
    here.env = environ
    if not fill_streams():
        return 1
    if argc > 4 and strcmp(argv[1], b":sealed") == 0:
        if join_two(here.exe, sizeof(here.exe), argv[2], b"") < 0:
            return 1
        answer = <int>parse_decimal(argv[3]) - 1
        if answer >= 0:
            fcntl(answer, F_SETFD, FD_CLOEXEC)
        line += 4
        argc -= 4
        sealed = True
    else:
        length = readlinkat(AT_FDCWD, b"/proc/self/exe", here.exe, sizeof(here.exe) - 1)
        if length <= 0:
            complain(b"pyrunc-oci: cannot read /proc/self/exe\n")
            return 1
        here.exe[length] = 0
    words.argc = argc
    words.argv = line
    words.hidden = <size_t>(line[0] - argv[0])
    return serve(&here, &words, sealed, answer)


cdef inline int serve(oci_place *here, oci_words *words, bint sealed, int answer) noexcept nogil:
    """Do it here if it is plain, else become Python."""
    cdef char root[PATH_ROOM]
    cdef int code = PYTHON
    if words.argc > 2 and strcmp(words.argv[1], b":plan") == 0:
        return carry_out(here, words, sealed, <int>parse_decimal(words.argv[2]))
    if sealed:
        # The planner has had the time that this took.
        answer = hear_planner(answer)
        return carry_out(here, words, sealed, answer) if answer >= 0 else oci_python(here, words.argv + 1)
    if take_globals(words):
        if words.root == NULL and find_root(here, root):
            words.root = root
        if words.root != NULL:
            code = serve_verb(here, words)
    return code if code != PYTHON else oci_python(here, words.argv + 1)


cdef inline bint find_root(oci_place *here, char *root) noexcept nogil:
    """Where state is kept if the command line does not say; False if Python has to find it."""
    cdef const char *runtime = runtime_directory(here)
    cdef const char *user = environment(here.env, b"USER")
    cdef const char *given = environment(here.env, b"XDG_RUNTIME_DIR")
    if given != NULL and given[0] != 0 and given[0] != c'/':
        return False
    if runtime != NULL and geteuid() == 0 and user != NULL and strcmp(user, b"root") == 0:
        runtime = NULL              # of a user namespace, who calls themselves so
    if runtime == NULL:
        return join_two(root, PATH_ROOM, b"/run/pyrunc-oci", b"") >= 0
    return join_two(root, PATH_ROOM, runtime, b"/pyrunc-oci") >= 0


cdef inline int carry_out(oci_place *here, oci_words *words, bint sealed, int plan_fd) noexcept nogil:
    """Do what the plan says, from an executable that nobody can write."""
    if plan_fd < 0:
        return 1
    if not sealed:
        oci_seal(here, b"/proc/self/exe", -1, words.argv)
        complain(b"pyrunc-oci: cannot execute a protected copy of itself\n")
        return 1
    call_ourselves(words)
    return oci_run_plan(here, plan_fd)


cdef inline void call_ourselves(oci_words *words) noexcept nogil:
    """Show the host's paths to nobody: a container's processes see the command line of its init, which is our copy."""
    cdef char *begin = <char *>words.argv[0]
    cdef const char *last = words.argv[words.argc - 1]
    cdef size_t room = <size_t>(last - begin) + strlen(last) + 1
    # From `:sealed` on the words stand one behind another in memory; those before the line's first are ours too.
    begin -= words.hidden
    room += words.hidden
    prctl(PR_SET_NAME, b"pyrunc-oci", 0, 0, 0)
    memset(begin, 0, room)
    if room > 16:
        memcpy(begin, b"pyrunc-oci\0init", 15)


cdef inline int serve_verb(oci_place *here, oci_words *words) noexcept nogil:
    """A verb that needs no Python, if all is well; its exit code, or PYTHON."""
    if strcmp(words.verb, b"state") == 0:
        return verb_state(words, words.root)
    if strcmp(words.verb, b"kill") == 0:
        return verb_kill(words, words.root)
    if strcmp(words.verb, b"start") == 0:
        return verb_start(here, words, words.root)
    if strcmp(words.verb, b"delete") == 0:
        return verb_delete(words, words.root)
    if strcmp(words.verb, b"create") == 0 or strcmp(words.verb, b"run") == 0 or strcmp(words.verb, b"exec") == 0:
        return verb_planned(here, words)
    return PYTHON


cdef inline int verb_planned(oci_place *here, oci_words *words) noexcept nogil:
    """A verb for which the planner may have a plan; what it says is heard once we are protected."""
    cdef int sock = ask_planner(here, words)
    if sock < 0:
        return PYTHON
    oci_seal(here, b"/proc/self/exe", sock, words.argv)
    close(sock)
    return PYTHON
