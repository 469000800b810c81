# cython: cdivision=True, boundscheck=False
# state, kill, start and delete of a container that asks for nothing out of the ordinary.
#
# Each returns its exit code, or PYTHON: then nothing has been done that Python would not find as it is, and Python does it,
# or finds the words for what is wrong. So no verb tells an error here.

from pyrunc._native.linux cimport *
from pyrunc._native.cgroup cimport *
from pyrunc._native.cgroup_end cimport *
from pyrunc._native.channel cimport *
from pyrunc._native.oci_arguments cimport *
from pyrunc._native.oci_files cimport remove_state
from pyrunc._native.oci_python cimport *
from pyrunc._native.oci_signals cimport *
from pyrunc._native.oci_state cimport *
from pyrunc._native.oci_system cimport *

cdef enum:
    PYTHON = -1
    DEATH_WAIT_MS = 10000           # how long delete waits for a killed container, as runc does
    STRAGGLER_ROUNDS = 1000
    LEAVING_ROUNDS = 100            # how often somebody may be met who only passes through, a millisecond apart


cdef inline int verb_state(oci_words *words, const char *root) noexcept nogil:
    """`state ID`."""
    cdef oci_state s
    cdef const char *id = NULL
    cdef iovec_t parts[6]
    cdef char pid[24]
    cdef const char *rest
    cdef const char *status
    cdef const char *closing = b"\n}"
    cdef ssize_t done
    cdef int i
    if not take_id(words, &id) or not at_end(words) or open_state(&s, root, id) < 0 or not read_state(&s):
        return PYTHON
    find_status(&s)
    status = status_name(s.status)
    rest = strchr(s.pid_text, c',')
    parts[0].iov_base = s.text
    parts[0].iov_len = <size_t>(s.pid_text - s.text)
    parts[1].iov_base = pid
    parts[1].iov_len = put_decimal(pid, <uint64_t>(0 if s.status == STATUS_STOPPED else s.pid))
    parts[2].iov_base = <void *>rest
    parts[2].iov_len = <size_t>(s.status_text + 1 - rest)
    parts[3].iov_base = <void *>status
    parts[3].iov_len = strlen(status)
    parts[4].iov_base = s.status_text + 8   # `"created` was there
    parts[4].iov_len = <size_t>(s.shown - s.status_text) - 8
    parts[5].iov_base = <void *>closing
    parts[5].iov_len = 2
    done = writev(1, parts, 6)
    if done < 0:
        return PYTHON
    # A pipe may take only a part at once.
    for i in range(6):
        if <size_t>done >= parts[i].iov_len:
            done -= <ssize_t>parts[i].iov_len
        elif not write_whole(1, <const char *>parts[i].iov_base + done, parts[i].iov_len - <size_t>done):
            return 1
        else:
            done = 0
    return 0


cdef inline bint write_whole(int fd, const char *bytes, size_t size) noexcept nogil:
    cdef ssize_t got
    while size > 0:
        got = write(fd, bytes, size)
        if got < 0 and errno != EINTR:
            return False
        if got > 0:
            bytes += got
            size -= <size_t>got
    return True


cdef inline bint vacate(const char *path, bint killing) noexcept nogil:
    """Wait until nobody is in the cgroup *path* and below, or kill them, again until nobody forks away from under it.

    False if one stays.
    """
    cdef timespec pause
    cdef int attempt
    cdef int found = 1
    cdef int directory
    if path[0] == 0:
        return True
    directory = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    if directory < 0:
        return True
    pause.tv_sec = 0
    pause.tv_nsec = 1000000
    for attempt in range(STRAGGLER_ROUNDS if killing else LEAVING_ROUNDS):
        if killing:
            write_file_at(directory, b"cgroup.kill", b"1")  # v2, Linux 5.14
            found = c_cgroup_end(directory, True)
        else:
            found = c_cgroup_walk(directory, WALK_LOOK)
        if found <= 0:
            break
        nanosleep(&pause, NULL)
    close(directory)
    return found <= 0


cdef inline void let_go(const char *freezer) noexcept nogil:
    """Let the processes of a frozen container run, so that a signal reaches them."""
    cdef int directory
    if freezer[0] == 0:
        return
    directory = openat(AT_FDCWD, freezer, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)
    if directory < 0:
        return
    c_cgroup_end(directory, False)
    write_file_at(directory, b"cgroup.freeze", b"0")
    close(directory)


cdef inline int verb_kill(oci_words *words, const char *root) noexcept nogil:
    """`kill [--all] ID [SIGNAL]`."""
    cdef oci_state s
    cdef const char *id = NULL
    cdef int number = SIGTERM
    cdef bint everyone = False
    while words.at < words.argc and words.argv[words.at][0] == c'-':
        if not take_switch(words, b"all") and not take_switch(words, b"a"):
            return PYTHON
        everyone = True
    if not take_id(words, &id):
        return PYTHON
    if not at_end(words):
        number = signal_number(words.argv[words.at])
        words.at += 1
    if number < 0 or not at_end(words) or open_state(&s, root, id) < 0 or not read_state(&s):
        return PYTHON
    find_status(&s)
    if s.status == STATUS_STOPPED:
        return PYTHON
    if not s.own_pids or everyone:
        # Only SIGKILL to init ends all who are in its pid namespace.
        if number != SIGKILL:
            if everyone:
                return PYTHON
        elif not s.own_pids:
            if s.kill[0] == 0:
                return PYTHON
            vacate(s.kill, True)
            return 0
    if syscall(NR_pidfd_send_signal, s.pidfd, number, NULL, 0) < 0:
        return PYTHON
    if number == SIGKILL and s.status == STATUS_PAUSED:
        let_go(s.freezer)
    return 0


cdef inline int verb_delete(oci_words *words, const char *root) noexcept nogil:
    """`delete [--force] ID`."""
    cdef oci_state s
    cdef const char *id = NULL
    cdef pollfd watch
    cdef bint force = False
    cdef int rc
    while words.at < words.argc and words.argv[words.at][0] == c'-':
        if not take_switch(words, b"force") and not take_switch(words, b"f"):
            return PYTHON
        force = True
    if not take_id(words, &id) or not at_end(words):
        return PYTHON
    rc = open_state(&s, root, id)
    if rc == -ENOENT and force and s.root >= 0:
        return 0
    # Whoever holds the lock may wait for what only this command can end: Python knows whom to kill first.
    if rc < 0 or not lock_state(&s, id, LOCK_NB) or not read_state(&s) or s.has_unit:
        return PYTHON
    find_status(&s)
    if s.status != STATUS_STOPPED:
        if s.status != STATUS_CREATED and not force:
            return PYTHON
        if syscall(NR_pidfd_send_signal, s.pidfd, SIGKILL, NULL, 0) < 0 and errno != ESRCH:
            return PYTHON
        let_go(s.freezer)
        watch.fd = s.pidfd
        watch.events = POLLIN
        rc = 0
        while rc == 0 or (rc < 0 and errno == EINTR):
            rc = poll(&watch, 1, DEATH_WAIT_MS)
            if rc == 0:
                return PYTHON
    # Whoever is still there may be the container's, or another's: Python finds out.
    if (not s.own_pids and not vacate(s.kill, False)) or not remove_cgroups_of(&s):
        return PYTHON
    return 0 if remove_state(s.root, id, s.directory) else PYTHON


cdef inline bint remove_cgroups_of(oci_state *s) noexcept nogil:
    """Remove the container's cgroups, in which nobody of its own is any more; False if one stays."""
    cdef char path[4096]
    cdef const char *cgroup
    cdef int i
    for i in range(s.cgroup_count):
        cgroup = s.cgroups[i]
        if unlinkat(AT_FDCWD, cgroup, AT_REMOVEDIR) < 0:
            if errno == ENOENT:
                continue
            # The container has made some below, or the last to leave is not quite gone, or somebody came in.
            if not vacate(cgroup, False) or c_cgroup_remove(b"", cgroup, NULL, False, path, sizeof(path)) < 0:
                return False
        c_cgroup_prune(b"", cgroup, path, sizeof(path))
    return True


cdef inline int verb_start(oci_place *here, oci_words *words, const char *root) noexcept nogil:
    """`start ID`: tell the container's init, which waits at its socket, and hear whether it became its program."""
    cdef oci_state s
    cdef const char *id = NULL
    cdef progress word
    cdef int got
    cdef int sock
    cdef bint ready = False
    if environment(here.env, b"NOTIFY_SOCKET") != NULL:
        return PYTHON
    if not take_id(words, &id) or not at_end(words) or open_state(&s, root, id) < 0 or not lock_state(&s, id, LOCK_NB):
        return PYTHON
    if not read_state(&s):
        return PYTHON
    find_status(&s)
    if s.status != STATUS_CREATED:
        return PYTHON
    sock = connect_in(s.directory, b"start", 0)
    if sock < 0:
        return PYTHON
    while True:
        got = <int>_rc(recv(sock, &word, sizeof(word), 0))
        if got == -EINTR:
            continue
        if got == -ECONNRESET:
            return PYTHON           # never accepted: somebody else has started it, or it was killed before
        if got < <int>sizeof(word):
            break
        if word.kind == PROGRESS_FAILED:
            return start_failed(here, words, word.step, word.error, word.pad)
        if word.kind == PROGRESS_READY:
            ready = True
    if not ready:
        return start_failed(here, words, <uint32_t>FAILED_PLAN, 0, 0)
    # Only now it is started; and if nobody comes to this, the kernel knows.
    unlinkat(s.directory, b"start", 0)
    return 0


cdef inline int start_failed(oci_place *here, oci_words *words, uint32_t step, int error, uint32_t op) noexcept nogil:
    """Python finds the words: `:failed start STEP ERRNO OP LOG FORMAT`."""
    cdef const char *argv[8]
    cdef char numbers[3][24]
    put_decimal(numbers[0], step)
    put_decimal(numbers[1], <uint64_t>(-error if error < 0 else error))
    put_decimal(numbers[2], op)
    argv[0] = b":failed"
    argv[1] = b"start"
    argv[2] = numbers[0]
    argv[3] = numbers[1]
    argv[4] = numbers[2]
    argv[5] = words.log
    argv[6] = words.log_format
    argv[7] = NULL
    return oci_python(here, argv)
