"""Docker's seccomp policy and its translation into the OCI object linux.seccomp.

A policy is an OCI seccomp object whose rules carry conditions on the container (includes, excludes) and
whose architectures depend on the host (archMap). The default one ships as data, unchanged.
Source: moby/profiles seccomp/default.json; OCI runtime specification, config-linux, "Seccomp".
"""

import os

from pyrunc.errors import InvalidSpec

TYPE_CHECKING = False  # typing costs 9 ms at the start of a program; type checkers take this name for theirs
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_DEFAULT_POLICY = os.path.join(os.path.dirname(__file__), "data", "seccomp-default.json")

# Name of the machine (uname -m, or Docker's own) → Docker's name in includes.arches, OCI name in archMap.
_ARCHITECTURES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i386": ("x86", "SCMP_ARCH_X86"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv8l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
}
_ARCHITECTURES |= {docker: (docker, oci) for docker, oci in _ARCHITECTURES.values()}


class InvalidProfile(InvalidSpec):
    """A seccomp policy or profile says something that cannot be meant; the message names the field."""


def docker_profile(
    capabilities: "Collection[str]", architecture: str, kernel: tuple[int, int]
) -> "dict[str, Any]":
    """Return Docker's default policy as an OCI linux.seccomp object for one container.

    *capabilities* is the bounding set ("CAP_CHOWN", …), *architecture* the host's (os.uname().machine, or
    Docker's name of it), *kernel* the host's version as (major, minor). The object is the caller's to change.
    Raises InvalidProfile for an architecture that Docker's policy has no name for.
    """
    return resolve_policy(_default_policy(), capabilities, architecture, kernel)


def resolve_policy(
    policy: "dict[str, Any]", capabilities: "Collection[str]", architecture: str, kernel: tuple[int, int]
) -> "dict[str, Any]":
    """Return *policy*, in Docker's format, as an OCI linux.seccomp object; arguments as docker_profile's.

    A rule is kept if nothing in its `excludes` holds and everything in its `includes` does: of the lists
    of architectures one name is enough, of the capabilities to include all must be there.
    Raises InvalidProfile for an unknown architecture, or a policy that contradicts itself.
    """
    try:
        docker_arch, oci_arch = _ARCHITECTURES[architecture]
    except KeyError:
        raise InvalidProfile(f"architecture: unknown machine {architecture!r}") from None
    if policy.get("architectures") and policy.get("archMap"):
        raise InvalidProfile("architectures: excluded by archMap, a policy has one or the other")

    resolved = {key: value for key, value in policy.items() if key not in ("archMap", "syscalls")}
    for entry in policy.get("archMap") or ():
        if entry["architecture"] == oci_arch:
            resolved["architectures"] = [oci_arch, *(entry.get("subArchitectures") or ())]
            break
    resolved["syscalls"] = rules = []
    for number, rule in enumerate(policy.get("syscalls") or ()):
        where = f"syscalls[{number}]"
        if not isinstance(rule, dict):
            raise InvalidProfile(f"{where}: not an object")
        excludes, includes = rule.get("excludes") or {}, rule.get("includes") or {}
        if docker_arch in (excludes.get("arches") or ()):
            continue
        if any(cap in capabilities for cap in excludes.get("caps") or ()):
            continue
        if excludes.get("minKernel") and kernel >= _version(excludes, f"{where}.excludes"):
            continue
        if includes.get("arches") and docker_arch not in includes["arches"]:
            continue
        if not all(cap in capabilities for cap in includes.get("caps") or ()):
            continue
        if includes.get("minKernel") and kernel < _version(includes, f"{where}.includes"):
            continue
        if rule.get("name") and rule.get("names"):
            raise InvalidProfile(f"{where}.name: excluded by names, a rule has one or the other")
        names: Any = [rule["name"]] if rule.get("name") else rule.get("names")
        for key, value in (("names", names), ("action", rule.get("action"))):
            if value is None:
                raise InvalidProfile(f"{where}.{key}: missing")
        kept = {"names": list(names), "action": rule["action"]}
        if rule.get("errnoRet") is not None:
            kept["errnoRet"] = rule["errnoRet"]
        if rule.get("args"):
            kept["args"] = [dict(arg) for arg in rule["args"]]
        rules.append(kept)
    return resolved


def _version(conditions: "dict[str, Any]", where: str) -> tuple[int, int]:
    """Return the "major.minor" in minKernel as numbers; what follows the second number does not count."""
    text = conditions["minKernel"]
    try:
        major, minor = text.split(".", 1)
        return int(major), int(minor)
    except (AttributeError, ValueError):
        raise InvalidProfile(f"{where}.minKernel: {text!r} is not a kernel version") from None


def _default_policy() -> "dict[str, Any]":
    global _policy
    if _policy is None:
        with open(_DEFAULT_POLICY, encoding="utf-8") as file:
            _policy = _parse(file.read())
    return _policy


_policy: "dict[str, Any] | None" = None


def _parse(text: str) -> "Any":
    """Return the JSON document in *text*, without importing json where its C scanner does.

    The package json costs 7 ms, for the regular expressions of its Python twin; a container that is started
    by a fresh interpreter needs nothing else from it.
    """
    try:
        from _json import make_scanner

        context: Any = _ScannerContext
        return make_scanner(context)(text, 0)[0]
    except (ImportError, AttributeError, TypeError):
        import json

        return json.loads(text)


class _ScannerContext:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
