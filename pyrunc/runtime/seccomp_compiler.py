"""Compiles a checked linux.seccomp object: libseccomp for the rules, a new lay-out, and what it lacks."""

import errno
from typing import Any

from pyrunc._native import seccomp as libseccomp
from pyrunc.runtime import seccomp_layout as layout
from pyrunc.spec import seccomp_profile as spec
from pyrunc.spec.seccomp import InvalidProfile

_X32_BIT = 0x40000000
_AUDIT_X86_64 = 0xC000003E
_ENOSYS = layout.Outcome(False, spec.RET_ERRNO | errno.ENOSYS)

_OPERATORS = {
    "SCMP_CMP_NE": libseccomp.CMP_NE,
    "SCMP_CMP_LT": libseccomp.CMP_LT,
    "SCMP_CMP_LE": libseccomp.CMP_LE,
    "SCMP_CMP_EQ": libseccomp.CMP_EQ,
    "SCMP_CMP_GE": libseccomp.CMP_GE,
    "SCMP_CMP_GT": libseccomp.CMP_GT,
    "SCMP_CMP_MASKED_EQ": libseccomp.CMP_MASKED_EQ,
}

# Syscalls that a libseccomp of the age of Linux 5.15 or later may not know. Since 424 they have one number on
# every architecture, plus a constant on some. Source: Linux 6.19 scripts/syscall.tbl, arch/*/syscall*.tbl.
_NEW_SYSCALLS = {
    "process_mrelease": 448,
    "futex_waitv": 449,
    "set_mempolicy_home_node": 450,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
    "listns": 470,
}
_OFFSETS = {
    "SCMP_ARCH_X32": _X32_BIT,
    "SCMP_ARCH_MIPS": 4000,
    "SCMP_ARCH_MIPSEL": 4000,
    "SCMP_ARCH_MIPS64": 5000,
    "SCMP_ARCH_MIPSEL64": 5000,
    "SCMP_ARCH_MIPS64N32": 6000,
    "SCMP_ARCH_MIPSEL64N32": 6000,
}
_OWN_SYSCALLS = {
    "SCMP_ARCH_X86_64": {"uretprobe": 335, "uprobe": 336},
    "SCMP_ARCH_RISCV64": {"riscv_hwprobe": 258, "riscv_flush_icache": 259},
}


def compile_rules(document: dict[str, Any]) -> tuple[bytes, int, tuple[str, ...]]:
    """Return the BPF program for *document*, its flags for seccomp(2), and the names that were skipped.

    Raises InvalidProfile with the name of the field.
    """
    profile = spec.parse_profile(document)
    architectures = _architectures(profile)
    try:
        libseccomp_filter = libseccomp.Filter(profile.default_action)
    except OSError as error:
        raise InvalidProfile(f"linux.seccomp.defaultAction: {_reason(error)}") from error
    for token in architectures.values():
        libseccomp_filter.add_arch(token)
    unknown = _add_rules(libseccomp_filter, profile)
    program = layout.decode(libseccomp_filter.export_bpf())

    sections: dict[int, list[layout.Span]] = {}
    for name, token in architectures.items():
        audit_arch = _AUDIT_X86_64 if name == "SCMP_ARCH_X32" else token
        if audit_arch not in sections:
            sections[audit_arch] = layout.map_numbers(program, audit_arch)
        spans = sections[audit_arch]
        _refuse_the_future(spans, profile, name, token)
        _add_unknown(spans, name, unknown)
    program = layout.lay_out(program, sections)
    if len(program) > layout.MAX_INSTRUCTIONS:
        raise InvalidProfile(
            f"linux.seccomp.syscalls: {len(program)} instructions, the kernel takes {layout.MAX_INSTRUCTIONS}"
        )
    skipped = tuple(
        name
        for name, rule in unknown
        if rule.conditions or not any(_new_number(name, arch) is not None for arch in architectures)
    )
    return layout.encode(program), profile.flags, tuple(dict.fromkeys(skipped))


def _architectures(profile: spec.Profile) -> dict[str, int]:
    """Return name and libseccomp's token of each architecture; the native one is always there, and first."""
    native = libseccomp.native_arch()
    tokens = {name: libseccomp.resolve_arch(_short_name(name)) for name in sorted(spec.ARCHITECTURES)}
    architectures = {name: token for name, token in tokens.items() if token == native}
    for number, name in enumerate(profile.architectures):
        if not tokens[name]:
            version = ".".join(map(str, libseccomp.version()))
            raise InvalidProfile(f"linux.seccomp.architectures[{number}]: libseccomp {version} has no {name}")
        architectures[name] = tokens[name]
    return architectures


def _short_name(architecture: str) -> bytes:
    return architecture.removeprefix("SCMP_ARCH_").lower().encode()


def _add_rules(libseccomp_filter: libseccomp.Filter, profile: spec.Profile) -> list[tuple[str, spec.Rule]]:
    """Add all rules whose action is not the default anyway, and return those libseccomp has no number for."""
    native = libseccomp.native_arch()
    unknown = []
    for rule in profile.rules:
        if rule.action == profile.default_action:
            continue
        conditions = [(c.argument, _OPERATORS[c.operator], c.value, c.value_two) for c in rule.conditions]
        # libseccomp takes one condition an argument. Where there are more, runc makes each a rule of its
        # own, that is, one of them is enough; profiles are written for that.
        split = len({condition[0] for condition in conditions}) < len(conditions)
        alternatives = [[condition] for condition in conditions] if split else [conditions]
        for name in rule.names:
            number = libseccomp.resolve_syscall(native, name.encode())
            if number is None:
                unknown.append((name, rule))
                continue
            for alternative in alternatives:
                try:
                    libseccomp_filter.add_rule(rule.action, number, alternative)
                except OSError as error:
                    raise _refused(rule, name, error) from error
    return unknown


def _refused(rule: spec.Rule, name: str, error: OSError) -> InvalidProfile:
    if error.errno == errno.EEXIST:
        return InvalidProfile(f"{rule.where}: contradicts an earlier rule for {name}")
    return InvalidProfile(f"{rule.where}: no rule for {name} possible: {_reason(error)}")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _refuse_the_future(spans: list[layout.Span], profile: spec.Profile, name: str, token: int) -> None:
    """Give ENOSYS to the syscalls above the highest one that the profile names.

    Its author did not know them, and programs take EPERM for a refusal, ENOSYS for an older kernel. Not where
    the default lets them pass. Source: runc, libcontainer/seccomp/patchbpf.
    """
    if profile.default_action in (spec.RET_ALLOW, spec.RET_LOG, spec.RET_USER_NOTIF) or (
        profile.default_action & 0xFFFF0000 == spec.RET_TRACE
    ):
        return
    largest = 0
    for syscall in {syscall for rule in profile.rules for syscall in rule.names}:
        number = libseccomp.resolve_syscall(token, syscall.encode())
        if number is None:
            number = _new_number(syscall, name) or 0
        largest = max(largest, number)
    if largest > 0:
        end = _X32_BIT - 1 if name == "SCMP_ARCH_X86_64" else layout.MAX_NUMBER
        layout.override(spans, largest + 1, end, _ENOSYS)
        if name in ("SCMP_ARCH_S390", "SCMP_ARCH_S390X"):
            # 0 is what s390 passes for a number that does not fit the instruction, and no syscall itself.
            layout.override(spans, 0, 0, _ENOSYS)


def _add_unknown(spans: list[layout.Span], arch: str, unknown: list[tuple[str, spec.Rule]]) -> None:
    """Give syscalls that libseccomp has no name for their action: the first rule's, as libseccomp does.

    Rules with conditions are left out: without libseccomp nothing here can compare arguments.
    """
    for name, rule in reversed(unknown):
        number = _new_number(name, arch)
        if number is not None and not rule.conditions:
            layout.override(spans, number, number, layout.Outcome(False, rule.action))


def _new_number(name: str, arch: str) -> int | None:
    if name in _NEW_SYSCALLS:
        return _NEW_SYSCALLS[name] + _OFFSETS.get(arch, 0)
    return _OWN_SYSCALLS.get(arch, {}).get(name)
