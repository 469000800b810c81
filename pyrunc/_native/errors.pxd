# How the Python floor of every facility raises. Inline, so that no module is imported for it;
# the C floor never comes here, so pyrunc-init does not either.

from libc.string cimport strerror, strlen


cdef inline long check(long rc, str syscall, bytes path=None) except? -1:
    """Return *rc*, or raise what the -errno in it stands for, with *path* as its file name.

    OSError picks its subclass by errno (FileNotFoundError, PermissionError); a note names *syscall*.
    """
    if rc >= 0:
        return rc
    name = None if path is None else path.decode("utf-8", "surrogateescape")
    error = OSError(-rc, strerror(<int>-rc).decode("utf-8"), name)
    error.add_note(f"in {syscall}(2)")
    raise error


cdef inline const char *c_text(bytes value) except NULL:
    """The bytes as the kernel reads them; ValueError for a NUL inside, which would end them early."""
    cdef const char *text = value
    if strlen(text) != <size_t>len(value):
        raise ValueError("embedded null byte")
    return text
