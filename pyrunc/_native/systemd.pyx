# cython: language_level=3
"""systemd's manager, asked over its own socket."""

from pyrunc._native.linux cimport *


def call(bytes path not None, bytes message not None, bytes unit=None):
    """Make the marshalled D-Bus call *message* at the socket *path*, and wait for the job of *unit* that it starts.

    Waits for at most 30 s. Returns 0 or a negative errno, the text of the answer or of the error, and the error's name:
    -ECANCELED where the job did not end as "done" (the text says how), -EEXIST and -ENOENT for a unit that exists, or
    does not, -EREMOTEIO for another error that systemd tells; others are about the connection.
    Source: D-Bus Specification; org.freedesktop.systemd1(5).
    """
    cdef const char *place = path
    cdef const char *data = message
    cdef size_t size = <size_t>len(message)
    cdef const char *waited = NULL
    cdef bus_end end
    cdef int rc
    if unit is not None:
        waited = unit
    with nogil:
        rc = c_systemd_call(place, <const unsigned char *>data, size, waited, &end)
    return rc, end.text.decode("utf-8", "replace"), end.name.decode("utf-8", "replace")
