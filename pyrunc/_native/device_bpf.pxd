# cython: cdivision=True, boundscheck=False
# Attaching a device program to a cgroup v2 (bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15).

from pyrunc._native.linux cimport *

cdef extern from *:
    """
    struct pr_bpf_load { uint32_t prog_type, insn_cnt; uint64_t insns, license; uint32_t log_level, log_size; uint64_t log_buf; uint32_t kern_version, prog_flags; };
    struct pr_bpf_attach { uint32_t target_fd, attach_bpf_fd, attach_type, attach_flags; };
    """
    ctypedef struct bpf_load "struct pr_bpf_load":
        uint32_t prog_type
        uint32_t insn_cnt
        uint64_t insns
        uint64_t license
    ctypedef struct bpf_attach "struct pr_bpf_attach":
        uint32_t target_fd
        uint32_t attach_bpf_fd
        uint32_t attach_type
        uint32_t attach_flags


cdef inline int c_attach_device_program(int cgroup_fd, const unsigned char *program, uint32_t instructions) noexcept nogil:
    """Load the program and attach it; it lives as long as the cgroup. 0 or -errno."""
    cdef bpf_load load
    cdef bpf_attach attach
    cdef int rc
    cdef int fd
    memset(&load, 0, sizeof(load))
    load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE
    load.insn_cnt = instructions
    load.insns = <uint64_t>program
    load.license = <uint64_t><const char *>b"Apache"
    fd = <int>_rc(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load)))
    if fd < 0:
        return fd
    attach.target_fd = <uint32_t>cgroup_fd
    attach.attach_bpf_fd = <uint32_t>fd
    attach.attach_type = BPF_CGROUP_DEVICE
    attach.attach_flags = BPF_F_ALLOW_MULTI
    rc = <int>_rc(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach)))
    close(fd)
    return rc
