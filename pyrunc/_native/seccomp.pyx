"""Seccomp filters built by libseccomp and exported as BPF, never loaded into this process.

Runs before any privilege is used: the exported program travels in the plan and pyrunc-init installs it.
Source: seccomp_init(3), seccomp_rule_add(3), seccomp_export_bpf(3).
"""

import os

from libc.errno cimport EEXIST, EINVAL
from libc.stdint cimport uint32_t, uint64_t

from pyrunc._native.linux cimport EFAULT, SECCOMP_SET_MODE_FILTER, SYS_seccomp, errno, syscall

CMP_NE = SCMP_CMP_NE
CMP_LT = SCMP_CMP_LT
CMP_LE = SCMP_CMP_LE
CMP_EQ = SCMP_CMP_EQ
CMP_GE = SCMP_CMP_GE
CMP_GT = SCMP_CMP_GT
CMP_MASKED_EQ = SCMP_CMP_MASKED_EQ

cdef enum:
    MAX_ARGS = 6


cdef int _check(int rc, str call) except -1:
    """Raise OSError for a negative libseccomp result; the name of the call goes into a note."""
    if rc >= 0:
        return rc
    error = OSError(-rc, os.strerror(-rc))
    error.add_note(call)
    raise error


def version():
    """Return libseccomp's version as (major, minor, micro)."""
    cdef const scmp_version *v = seccomp_version()
    return v.major, v.minor, v.micro


def api_level():
    """Return libseccomp's API level, which also reflects the running kernel; see seccomp_api_get(3)."""
    return seccomp_api_get()


def flag_supported(unsigned int flag):
    """Whether the kernel knows *flag* (SECCOMP_FILTER_FLAG_*); 0 is nothing that it could not know.

    Source: seccomp(2): with a flag that is known, the missing program is what it complains of.
    """
    return flag == 0 or (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flag, NULL) < 0 and errno == EFAULT)


def native_arch():
    """Return the token (AUDIT_ARCH_*) of the architecture this process runs on."""
    return seccomp_arch_native()


def resolve_arch(bytes name not None):
    """Return the token of the architecture *name* (b"x86_64"), or 0 if libseccomp does not know it."""
    return seccomp_arch_resolve_name(name)


def resolve_syscall(uint32_t arch, bytes name not None):
    """Return the number of syscall *name* on *arch*, or None if libseccomp does not know the name.

    A negative number is libseccomp's placeholder for a syscall that exists, but not on this architecture.
    """
    cdef int number = seccomp_syscall_resolve_name_arch(arch, name)
    return None if number == __NR_SCMP_ERROR else number


cdef class Filter:
    """A filter under construction, which starts with the native architecture and no rule.

    *default_action* is a SECCOMP_RET_* value with its data in the low 16 bits.
    Raises OSError EINVAL for an action that libseccomp or the kernel does not know.
    """

    cdef scmp_filter_ctx _ctx

    def __cinit__(self, uint32_t default_action):
        self._ctx = seccomp_init(default_action)
        if self._ctx is NULL:
            # seccomp_init(3) returns no errno; out of memory is the only other reason and not a likely one.
            raise OSError(EINVAL, os.strerror(EINVAL))

    def __dealloc__(self):
        if self._ctx is not NULL:
            seccomp_release(self._ctx)

    def add_arch(self, uint32_t arch):
        """Filter syscalls of *arch* too; an architecture that is already there is no error."""
        cdef int rc = seccomp_arch_add(self._ctx, arch)
        if rc != -EEXIST:
            _check(rc, "seccomp_arch_add")

    def add_rule(self, uint32_t action, int syscall, conditions):
        """Return *action* for *syscall* (native number) where all *conditions* hold.

        A condition is (argument index, CMP_*, value, second value); for CMP_MASKED_EQ the value is the mask
        and the second value is compared with the masked argument.
        Raises OSError EEXIST for a conflict with another rule, EINVAL for two conditions on one argument,
        EACCES for the default action.
        """
        cdef scmp_arg_cmp comparisons[MAX_ARGS]
        cdef unsigned int count = 0
        for index, op, value, second in conditions:
            if count == MAX_ARGS:
                raise OSError(EINVAL, os.strerror(EINVAL))
            comparisons[count].arg = index
            comparisons[count].op = <scmp_compare><int>op
            comparisons[count].datum_a = <uint64_t>value
            comparisons[count].datum_b = <uint64_t>second
            count += 1
        _check(seccomp_rule_add_array(self._ctx, action, syscall, count, comparisons), "seccomp_rule_add_array")

    def export_bpf(self):
        """Return the filter as an array of struct sock_filter in host byte order."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(seccomp_export_bpf(self._ctx, fd), "seccomp_export_bpf")
            return os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
        finally:
            os.close(fd)
