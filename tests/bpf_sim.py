"""A simulator of the classic BPF that seccomp takes, as an oracle that shares nothing with the compiler.

Source: linux/filter.h, linux/seccomp.h (struct seccomp_data).
"""

import operator
import struct
from collections.abc import Callable

_LD_ABS, _RET_K, _JA, _AND_K = 0x20, 0x06, 0x05, 0x54
_JUMPS: dict[int, Callable[[int, int], object]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: operator.and_,
}


def run(bpf: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """Return what the filter returns for one syscall; AssertionError is for what the kernel would refuse."""
    program: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", bpf))
    data = struct.pack("=IIQ6Q", number, arch, 0, *(args + (0,) * 6)[:6])
    accumulator = 0
    pc = 0
    while True:
        assert pc < len(program), f"jump behind the end of the program, to {pc}"
        code, jt, jf, k = program[pc]
        pc += 1
        if code == _RET_K:
            return k
        if code == _LD_ABS:
            assert k % 4 == 0 and k + 4 <= len(data), f"load from offset {k}"
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == _AND_K:
            accumulator &= k
        elif code == _JA:
            pc += k
        else:
            pc += jt if _JUMPS[code](accumulator, k) else jf
