"""Run the image that ships with pyrunc, and show what isolates it and how long each stage took.

    python examples/hello.py        as root; in a checkout: ./dev hello

Every line of the first table is what the program itself read inside the container.
"""

import os
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pyrunc
from pyrunc.image import layout
from pyrunc.spec import capabilities

_NAMESPACES = {
    "mnt": "mounts", "pid": "processes", "net": "network", "ipc": "IPC", "uts": "host name",
    "cgroup": "cgroups", "user": "users",
}  # fmt: skip
_SECCOMP = {"0": "off", "1": "strict", "2": "a filter judges every system call"}


def run_hello() -> pyrunc.RunResult:
    """Unpack the image into a temporary directory and run its program in it."""
    image = layout.read(layout.shipped("hello"), "hello")
    with tempfile.TemporaryDirectory(prefix="pyrunc-hello-") as rootfs:
        layout.unpack(image, rootfs)
        with pyrunc.Sandbox(rootfs) as box:
            return box.run(image.config["config"]["Cmd"])


def read_report(text: str) -> dict[str, list[str]]:
    """Group the program's `key value` lines by key."""
    report: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        report.setdefault(key, []).append(value)
    return report


def isolation(report: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Say in words what the program saw of its isolation."""
    status = dict(line.split(":\t", 1) for line in report["status"])
    namespaces: dict[bool, list[str]] = {True: [], False: []}
    for entry in report["namespace"]:
        kind = entry.partition(":")[0]
        namespaces[os.readlink(f"/proc/self/ns/{kind}") == entry].append(_NAMESPACES[kind])
    mounts = [_mount(line) for line in report["mount"]]
    root = next(mount for mount in mounts if mount.at == "/")
    api = [
        mount for mount in mounts if mount.at.startswith(("/proc/", "/sys/")) and mount.at != "/sys/fs/cgroup"
    ]
    masked = [mount.at for mount in api if mount.type == "tmpfs" or mount.source.endswith("/null")]
    read_only = [mount.at for mount in api if mount.type == "proc" and mount.read_only]
    interfaces = [line.partition(":")[0].strip() for line in report.get("interface", ())]
    bits = int(status["CapEff"], 16)
    held = [name.lower() for number, name in enumerate(capabilities.NAMES) if bits >> number & 1]
    cgroups: dict[str, list[str]] = {}
    for line in report.get("cgroup", ()):
        _, hierarchy, path = line.split(":", 2)
        cgroups.setdefault(path, []).append(hierarchy.removeprefix("name=") or "v2")
    user, group = status["Uid"].split()[0], status["Gid"].split()[0]
    return [
        ("namespaces of its own", _join(namespaces[False])),
        ("shared with the host", _join(namespaces[True])),
        ("process", f"pid {status['Pid']}, user {user}, group {group}"),
        ("host name", report["hostname"][0]),
        ("network interfaces", _join(interfaces)),
        (
            "root",
            f"{root.type}, {'read-only' if root.read_only else 'writable'}; {len(mounts)} mounts in all",
        ),
        ("capabilities", f"{len(held)} of {len(capabilities.NAMES)}: {_join(held)}"),
        ("seccomp", _SECCOMP.get(status["Seccomp"], status["Seccomp"])),
        ("more privileges", "never" if status["NoNewPrivs"] == "1" else "by set-user-ID programs"),
        ("cgroups", "; ".join(f"{path} in {_join(names)}" for path, names in cgroups.items()) or "none"),
        ("masked", _join(masked)),
        ("read-only", _join(read_only)),
    ]


def _join(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


class _Mount(NamedTuple):
    source: str
    at: str
    read_only: bool
    type: str


def _mount(line: str) -> _Mount:
    """One line of mountinfo; proc_pid_mountinfo(5)."""
    before, _, after = line.partition(" - ")
    fields = before.split()
    return _Mount(fields[3], fields[4], "ro" in fields[5].split(","), after.split()[0])


def _table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    print(f"\n{title}")
    for name, value in rows:
        lines = textwrap.wrap(value, 84, break_on_hyphens=False)
        print(f"  {name:23}{lines[0]}")
        for line in lines[1:]:
            print(f"  {'':23}{line}")


def main() -> int:
    """Run it and print all; the exit status."""
    try:
        result = run_hello()
    except pyrunc.errors.PyruncError as exc:
        print(f"hello: {exc}", file=sys.stderr)
        return exc.exit_code
    if result.exit_code:
        print(f"hello: the program ended with {result.exit_code}", file=sys.stderr)
        sys.stderr.write(result.stderr.decode(errors="replace"))
        return result.exit_code
    report = read_report(result.stdout.decode())
    print(report["greeting"][0])
    _table("What isolates it, as read inside:", isolation(report))
    stages = {**result.timings_ns, "together": sum(result.timings_ns.values())}
    _table("How long each stage took:", [(name, f"{ns / 1000:.0f} µs") for name, ns in stages.items()])
    return 0


if __name__ == "__main__":
    sys.exit(main())
