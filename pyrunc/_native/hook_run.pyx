# cython: cdivision=True, boundscheck=False, language_level=3
"""Hooks of OCI runtime documents for the verbs that Python serves; the front door compiles the same code."""

from pyrunc._native.linux cimport *
from pyrunc._native.hook_run cimport *
from pyrunc._native.oci_system cimport environ


def run(bytes path, argv, env, unsigned int timeout_s, bytes state):
    """Run a hook to its end: (failed, errno, wait status, timed out, last of its output, last of its errors).

    *argv* and *env* are sequences of bytes without NUL; an *env* of None is this process's own. *timeout_s* in seconds, 0 for none.
    """
    cdef hook_program hook
    cdef hook_end end
    cdef iovec_t piece
    cdef bytes words = b"".join([word + b"\0" for word in argv])
    cdef bytes variables = b"".join([word + b"\0" for word in env or ()])
    memset(&hook, 0, sizeof(hook))
    hook.path = path
    hook.argv = words
    hook.argc = <uint32_t>len(argv)
    hook.env = variables
    hook.envc = <uint32_t>HOOK_INHERITS if env is None else <uint32_t>len(env)
    hook.inherited = environ
    hook.container = hook.interrupt = -1
    hook.timeout_s = timeout_s
    hook.directory = -1
    piece.iov_base = <char *>state
    piece.iov_len = <size_t>len(state)
    with nogil:
        run_hook(&hook, &piece, 1 if piece.iov_len else 0, &end)
    return end.failed != 0, -end.error, end.status, end.timed_out != 0, end.out[:end.out_size], end.err[:end.err_size]
