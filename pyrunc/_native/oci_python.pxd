# cython: cdivision=True, boundscheck=False
# From the front door to Python, which implements every verb whole: the front door becomes it by execve(2).
#
# The interpreter is found by the front door's own place, never by PATH:
#   1. `<front door>.python`, written by a build in place: the interpreter, and the directory that pyrunc is in
#   2. the first line of the command `pyrunc` beside it, in which the installation has put its interpreter
#   3. `python3` beside it

from pyrunc._native.linux cimport *
from pyrunc._native.oci_system cimport *

cdef struct oci_place:
    char exe[4096]                  # the front door's path on the host, also while a sealed copy of it runs
    char **env


cdef inline const char *bootstrap() noexcept nogil:
    """What Python runs first; its arguments are the front door, the package's directory or "", then the command's.

    Most commands are over before it pays to collect anything. Started with -I -S it has imported nothing of the
    environment, nor `site`, which costs as much as a start of ours. The modules come from the verb's file, if it is
    there and right: pyrunc/bundled.py.
    """
    return (
        b"import gc,sys\n"
        b"gc.set_threshold(100000)\n"
        b"_,f,d,*a=sys.argv\n"
        b"v='/python%d.%d/'%sys.version_info[:2]\n"
        b"sys.argv[:]=[f,*a]\n"
        b"p=f.rpartition('/bin/')[0]\n"
        b"p=[d]if d else[p+l+v+k+'-packages'for l in('/lib','/lib64')for k in('site','dist')]\n"
        b"sys.path+=p\n"
        b"from _frozen_importlib_external import MAGIC_NUMBER as v\n"
        b"from marshal import loads\n"
        b"k='create delete exec kill list ps run start state update'.split()\n"
        b"k='oci-'+next((w for w in a if w in k),'other')\n"
        b"for l in p:\n"
        b" try:\n"
        b"  with open(f'{l}/pyrunc/__pycache__/{k}.{sys.implementation.cache_tag}.bin','rb',0)as b:c=loads(b.read())\n"
        b"  if c[0][0]==v:\n"
        b"   b=type(sys)('pyrunc.bundled')\n"
        b"   exec(c[1],b.__dict__)\n"
        b"   if b.take(b,k,c):break\n"
        b" except(OSError,EOFError,ValueError,TypeError,IndexError):pass\n"
        b"else:\n"
        b" try:import pyrunc\n"
        b" except ImportError:import site;site.main()\n"
        b" from pyrunc import bundled\n"
        b" bundled.begin(k)\n"
        b"from pyrunc.oci.main import main\n"
        b"k=main(f,a)\n"
        b"sys.modules['pyrunc.bundled'].save()\n"
        b"sys.exit(k)\n"
    )


cdef inline int read_head(const char *path, char *buffer, size_t room) noexcept nogil:
    """The beginning of the file *path*, with a NUL; its length or -errno."""
    cdef ssize_t got
    cdef int fd = <int>_rc(openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NOCTTY))
    if fd < 0:
        return fd
    got = read(fd, buffer, room - 1)
    if got < 0:
        got = -errno
    close(fd)
    if got >= 0:
        buffer[got] = 0
    return <int>got


cdef inline char *end_line(char *text) noexcept nogil:
    """End *text* at its first line; what follows, or its end."""
    cdef size_t i = 0
    while text[i] != 0 and text[i] != c'\n':
        i += 1
    if text[i] == 0:
        return text + i
    text[i] = 0
    return text + i + 1


cdef inline const char *interpreter(const char *exe, char *buffer, size_t room, const char **directory) noexcept nogil:
    """The interpreter's path, kept in *buffer* with *directory*, where pyrunc is, or "" if that is to be looked for."""
    cdef char path[4096]
    cdef char *rest
    cdef size_t tail
    directory[0] = b""
    if join_two(path, sizeof(path), exe, b".python") > 0 and read_head(path, buffer, room) > 0:
        rest = end_line(buffer)
        end_line(rest)
        if buffer[0] == c'/':
            directory[0] = rest
            return buffer
    tail = strlen(exe)
    while tail > 0 and exe[tail - 1] != c'/':
        tail -= 1
    if tail + 16 > sizeof(path):
        return NULL
    memcpy(path, exe, tail)
    memcpy(path + tail, b"pyrunc", 7)
    if read_head(path, buffer, room) > 3 and buffer[0] == c'#' and buffer[1] == c'!' and buffer[2] == c'/':
        end_line(buffer)
        # `#!/bin/sh` stands where the interpreter's path has a space or is too long for the kernel.
        if strchr(buffer, c' ') == NULL and strcmp(buffer, b"#!/bin/sh") != 0:
            return buffer + 2
    memcpy(buffer, exe, tail)
    memcpy(buffer + tail, b"python3", 8)
    return buffer


cdef inline int oci_python(oci_place *here, const char **argv) noexcept nogil:
    """Become Python with the NULL-terminated command line *argv*; returns, with an exit code, only if that fails."""
    cdef char buffer[8192]
    cdef const char *directory
    cdef const char *program = interpreter(here.exe, buffer, sizeof(buffer), &directory)
    cdef const char **words
    cdef size_t count = 0
    cdef size_t i
    while argv[count] != NULL:
        count += 1
    words = <const char **>anonymous((count + 8) * sizeof(char *))
    if words != NULL and program != NULL:
        words[0] = program
        words[1] = b"-I"
        words[2] = b"-S"
        words[3] = b"-c"
        words[4] = bootstrap()
        words[5] = here.exe
        words[6] = directory
        for i in range(count):
            words[7 + i] = argv[i]
        execve(program, <char **>words, here.env)
    complain(b"pyrunc-oci: cannot execute its Python interpreter ")
    if program != NULL:
        complain(program)
    complain(b"\n")
    return 1


cdef inline void complain(const char *words) noexcept nogil:
    write(2, words, strlen(words))
