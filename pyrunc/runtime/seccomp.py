"""From an OCI linux.seccomp object to the BPF program that init installs.

compile_profile asks, in this order: a table in this process, files that earlier processes left, libseccomp.
A profile is looked up by its whole content, so that no digest has to be computed or trusted.
"""

from pyrunc._native import seccomp as _libseccomp
from pyrunc.runtime import seccomp_cache

TYPE_CHECKING = False  # typing costs 9 ms at the start of a program; type checkers take this name for theirs
if TYPE_CHECKING:
    from typing import Any

_FORMAT = 1  # of what the compiler makes of a profile; goes up with each change of its result
_MAX_PROGRAMS = 64


class Program:
    """A compiled filter and how to install it; not to be changed, since it is shared.

    *bpf* is an array of struct sock_filter in host byte order, *flags* are seccomp(2)'s
    SECCOMP_FILTER_FLAG_*, among them NEW_LISTENER if the profile notifies. *listener_path* and
    *listener_metadata* are the profile's own. *skipped* are the names that stand for no syscall here.
    """

    __slots__ = ("bpf", "flags", "listener_metadata", "listener_path", "skipped")

    def __init__(
        self,
        bpf: bytes,
        flags: int,
        listener_path: str | None = None,
        listener_metadata: str | None = None,
        skipped: tuple[str, ...] = (),
    ) -> None:
        self.bpf = bpf
        self.flags = flags
        self.listener_path = listener_path
        self.listener_metadata = listener_metadata
        self.skipped = skipped

    def __repr__(self) -> str:
        return f"<seccomp program of {len(self.bpf) // 8} instructions, flags {self.flags:#x}>"


_programs: dict[bytes, Program] = {}


def compile_profile(profile: "dict[str, Any]", cache_dir: str | None = None) -> Program:
    """Return the program for the OCI linux.seccomp object *profile*.

    With *cache_dir* programs are also kept in that directory, which is made if only its last part is missing,
    and used if root alone can enter it: 0.2 ms instead of 13 for the next process. Two things differ from
    what libseccomp alone would do. Where the default is to refuse, a syscall newer than every name in the
    profile gets ENOSYS, as runc has it, so that programs fall back to older ones. And syscalls that are newer
    than libseccomp are known by number.

    Raises pyrunc.spec.seccomp.InvalidProfile with the name of the field.
    """
    key = repr((_FORMAT, _libseccomp.version(), _libseccomp.native_arch(), profile)).encode()
    program = _programs.get(key)
    if program is None:
        stored = seccomp_cache.load(cache_dir, key) if cache_dir else None
        if stored is None:
            from pyrunc.runtime.seccomp_compiler import compile_rules

            bpf, flags, skipped = compile_rules(profile)
            if cache_dir:
                seccomp_cache.store(cache_dir, key, seccomp_cache.Entry(bpf, flags, skipped))
        else:
            bpf, flags, skipped = stored.bpf, stored.flags, stored.skipped
        # Nothing else of an object that compiles is worth storing: these two are strings, if they are there.
        path, metadata = profile.get("listenerPath"), profile.get("listenerMetadata")
        program = Program(bpf, flags, path or None, metadata or None, skipped)
        if len(_programs) >= _MAX_PROGRAMS:
            _programs.clear()
        _programs[key] = program
    return program
