# cython: cdivision=True, boundscheck=False
# Which entries of a tree this layer has written: a set of (device, inode of the directory, name), a directory itself
# as (device, inode, ""). It holds hashes of them under a secret key, so that nobody can choose names that collide; that
# two of a million entries ever do has a chance of one in 10 ** 7, and a lower layer's file would outlive a whiteout.

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, strlen

from pyrunc._native.linux cimport *

cdef extern from "<sys/random.h>":
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags) nogil


ctypedef struct own_entries:
    uint64_t *slots  # 0 is empty
    size_t room      # a power of two
    size_t count
    uint64_t key[2]

# Paths, each with its NUL, of directories that are still to be looked at.
ctypedef struct hidden_queue:
    char *data
    size_t first
    size_t size
    size_t room


cdef inline uint64_t _turn(uint64_t word, int bits) noexcept nogil:
    return word << bits | word >> (64 - bits)


cdef inline void _sip(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = _turn(v[1], 13) ^ v[0]
    v[0] = _turn(v[0], 32)
    v[2] += v[3]
    v[3] = _turn(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = _turn(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = _turn(v[1], 17) ^ v[2]
    v[2] = _turn(v[2], 32)


cdef inline void _sip_word(uint64_t *v, uint64_t word) noexcept nogil:
    v[3] ^= word
    _sip(v)
    _sip(v)
    v[0] ^= word


cdef inline uint64_t own_hash(const own_entries *own, uint64_t dev, uint64_t ino, const char *name) noexcept nogil:
    """SipHash-2-4 of the three, never 0. Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF"."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef size_t left = strlen(name)
    cdef size_t n
    v[0] = own.key[0] ^ <uint64_t>0x736F6D6570736575
    v[1] = own.key[1] ^ <uint64_t>0x646F72616E646F6D
    v[2] = own.key[0] ^ <uint64_t>0x6C7967656E657261
    v[3] = own.key[1] ^ <uint64_t>0x7465646279746573
    _sip_word(v, dev)
    _sip_word(v, ino)
    _sip_word(v, left)
    while left:
        n = left if left < 8 else 8
        word = 0
        memcpy(&word, name, n)
        _sip_word(v, word)
        name += n
        left -= n
    v[2] ^= 0xFF
    _sip(v)
    _sip(v)
    _sip(v)
    _sip(v)
    word = v[0] ^ v[1] ^ v[2] ^ v[3]
    return word if word else 1


cdef inline int own_open(own_entries *own) noexcept nogil:
    if _rc(getrandom(own.key, sizeof(own.key), 0)) != sizeof(own.key):
        return -EIO
    own.room = 1024
    own.slots = <uint64_t *>calloc(own.room, sizeof(uint64_t))
    return 0 if own.slots != NULL else -ENOMEM


cdef inline void own_close(own_entries *own) noexcept nogil:
    free(own.slots)
    own.slots = NULL


cdef inline bint own_put(uint64_t *slots, size_t room, uint64_t hash) noexcept nogil:
    """False if it is there already."""
    cdef size_t i = <size_t>hash & (room - 1)
    while slots[i]:
        if slots[i] == hash:
            return False
        i = (i + 1) & (room - 1)
    slots[i] = hash
    return True


cdef inline int own_add(own_entries *own, uint64_t dev, uint64_t ino, const char *name) noexcept nogil:
    cdef uint64_t *grown
    cdef size_t i
    if own.count * 2 >= own.room:
        grown = <uint64_t *>calloc(own.room * 2, sizeof(uint64_t))
        if grown == NULL:
            return -ENOMEM
        for i in range(own.room):
            if own.slots[i]:
                own_put(grown, own.room * 2, own.slots[i])
        free(own.slots)
        own.slots = grown
        own.room *= 2
    if own_put(own.slots, own.room, own_hash(own, dev, ino, name)):
        own.count += 1
    return 0


cdef inline bint own_has(const own_entries *own, uint64_t dev, uint64_t ino, const char *name) noexcept nogil:
    cdef uint64_t hash = own_hash(own, dev, ino, name)
    cdef size_t i = <size_t>hash & (own.room - 1)
    while own.slots[i]:
        if own.slots[i] == hash:
            return True
        i = (i + 1) & (own.room - 1)
    return False


cdef inline int hidden_add(hidden_queue *queue, const char *name) noexcept nogil:
    """Add *name* below the first path of the queue."""
    cdef size_t above = 0
    cdef size_t size = strlen(name)
    cdef size_t room
    cdef char *grown
    if queue.first < queue.size:
        above = strlen(queue.data + queue.first)
    if queue.size + above + size + 2 > queue.room:
        room = (queue.size + above + size + 2) * 2
        grown = <char *>realloc(queue.data, room)
        if grown == NULL:
            return -ENOMEM
        queue.data = grown
        queue.room = room
    if above:
        memcpy(queue.data + queue.size, queue.data + queue.first, above)
        queue.data[queue.size + above] = c'/'
        above += 1
    memcpy(queue.data + queue.size + above, name, size + 1)
    queue.size += above + size + 1
    return 0


cdef inline void hidden_next(hidden_queue *queue) noexcept nogil:
    """The first path is done."""
    queue.first += strlen(queue.data + queue.first) + 1
