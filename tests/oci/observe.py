"""What a container finds around it and what the host sees of it, in words that are the same for every runtime."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyrunc.runtime.cgroup_layout import Layout, detect
from tests.oci.runtime import Runtime, unique_id
from tests.oci.waiting import PATIENCE_S
from tests.runtime.cgroup_support import values

Spec = dict[str, Any]
Observation = dict[str, list[str]]

# All that a shell can find out; one section a line that begins with `@`.
SCRIPT = r"""
export PATH=/bin
echo @environ; tr '\0' '\n' </proc/$$/environ
echo @arguments; tr '\0' '\n' </proc/$$/cmdline | sed 1q
echo @cwd; readlink /proc/$$/cwd
echo @descriptors; for fd in /proc/$$/fd/*; do case ${fd##*/} in 10) ;; *) echo "${fd##*/} $(readlink $fd)";; esac; done
echo @status; grep -E '^(Umask|Uid|Gid|Groups|Sig(Ign|Blk)|Cap|NoNewPrivs|Seccomp:|Cpus_allowed_list)' /proc/$$/status
echo @limits; cat /proc/$$/limits
echo @session; cut -d ' ' -f 5,6,7 /proc/1/stat
echo @oom; cat /proc/$$/oom_score_adj
echo @personality; cat /proc/$$/personality 2>/dev/null || echo hidden
echo @mounts; cat /proc/self/mountinfo
echo @dev; for f in /dev/* /dev/pts/ptmx; do stat -c '%N %F %a %u:%g %t,%T' $f; done
echo @hostname; hostname; cat /proc/sys/kernel/domainname
echo @cgroup; cat /proc/self/cgroup
echo @interfaces; ls /sys/class/net
echo @maps; cat /proc/self/uid_map /proc/self/gid_map
echo @sysctls; cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max 2>&1
echo @root; touch /written 2>/dev/null && echo writable; ls -a /
echo @masked; for f in kcore keys timer_list acpi scsi sys bus; do stat -c '%n %F' /proc/$f 2>&1; done
for f in /proc/sysrq-trigger /proc/sys/kernel/hostname; do (: >>$f) 2>/dev/null && echo "$f writable"; done
for f in /sys/firmware /proc/acpi /proc/scsi; do ls $f 2>&1; done
echo @extra
"""
END = "\necho @end; exec sleep 1000\n"


def settle(spec: Spec, changes: dict[str, Any]) -> Spec:
    """Change *spec* by dotted keys: a value replaces, None deletes, `key+` extends a list."""
    for key, value in changes.items():
        *above, last = key.rstrip("+").split(".")
        place = spec
        for part in above:
            place = place.setdefault(part, {})
        if value is None:
            place.pop(last, None)
        elif key.endswith("+"):
            place[last] = [*place.get(last, []), *value]
        else:
            place[last] = value
    return spec


def observe(runtime: Runtime, bundle: Path, spec: Spec, extra: str = "") -> Observation:
    """Create, start, look at, kill and delete a container of *spec*, whose program also runs *extra*.

    The result has the sections of `SCRIPT`, `state …` for what the runtime says, and `host …` for what can be seen
    from the host.
    """
    name = spec["linux"].get("cgroupsPath") or ""
    container = unique_id()
    spec["process"]["args"] = ["/bin/sh", "-c", f"id={container}\n{SCRIPT}{extra}{END}"]
    (bundle / "config.json").write_text(json.dumps(spec))
    output = bundle / "stdout"
    output.unlink(missing_ok=True)
    runtime.create(bundle, name=container, output=output)
    found: Observation = {}
    tidy = tidier({name: "CGROUP", container: "ID", str(bundle): "BUNDLE", str(runtime.root.parent): "STATE"})
    try:
        found["state created"] = described(runtime.state(container), tidy)
        runtime("start", container)
        text = finished(output)
        state = runtime.state(container)
        found["state running"] = described(state, tidy)
        found |= {section: tidy_section(section, lines, tidy) for section, lines in sections(text).items()}
        found |= seen_from_the_host(state["pid"], tidy)
        layout = detect()
        path = seen_cgroup(state["pid"])
        if path.startswith("/pyrunc-test"):
            limits = values(layout, path[1:]) if in_all(layout, path) else {}
            found["host limits"] = [
                f"{key} {line}" for key, value in limits.items() for line in value.splitlines()
            ]
        runtime("kill", container, "KILL")
        found["state stopped"] = described(runtime.wait(container, "stopped"), tidy)
    finally:
        runtime("delete", "--force", container, code=None)
    found["state deleted"] = [str((runtime.root / container).exists())]
    found["host left"] = [tidy(place) for place in places(name)] if name else []
    return found


def places(path: str) -> list[str]:
    """Where the cgroup *path* is, in whichever hierarchy, below the root or below this process's own."""
    name = path.strip("/")
    return [directory for directory, _, _ in os.walk("/sys/fs/cgroup") if directory.endswith(f"/{name}")]


def in_all(layout: Layout, path: str) -> bool:
    """Whether the cgroup *path* is there in every hierarchy: a relative one is below that of the runtime."""
    return all(os.path.isdir(f"{hierarchy.mountpoint}{path}") for hierarchy in layout.hierarchies)


def finished(output: Path) -> str:
    """The program's words once it has said its last."""
    deadline = time.monotonic() + PATIENCE_S
    while "\n@end\n" not in (text := output.read_text(errors="replace")):
        words = output.with_name(output.name + ".err").read_text(errors="replace")
        assert time.monotonic() < deadline, (text, words)
        time.sleep(0.01)
    return text


def sections(text: str) -> Observation:
    """Split the words of `SCRIPT`."""
    found: Observation = {}
    current: list[str] = []
    for line in text.splitlines():
        if re.fullmatch(r"@[a-z]+", line):
            current = found.setdefault(line[1:], [])
        else:
            current.append(line)
    del found["end"]
    return found


def tidier(words: dict[str, str]) -> Callable[[str], str]:
    """What makes a line independent of names and places, which *words* has, and of numbers that differ each time."""

    def tidy(line: str) -> str:
        for found, word in words.items():
            line = line.replace(found, word) if len(found) > 1 else line
        return re.sub(r"(pipe|socket|ns|net|mnt|ipc|uts|pid|user|cgroup):\[\d+\]", r"\1:[N]", line)

    return tidy


def tidy_section(section: str, lines: list[str], tidy: Callable[[str], str]) -> list[str]:
    """The lines of one section, tidied and in an order of their own where the kernel's means nothing."""
    if section == "mounts":
        return mounts(lines, tidy)
    lines = [tidy(line) for line in lines]
    return sorted(lines) if section in ("dev", "root", "cgroup", "descriptors") else lines


def mounts(lines: list[str], tidy: Callable[[str], str]) -> list[str]:
    """Mountinfo by mount point: what is mounted there, its options, and who shares it, without numbers."""
    found = []
    for line in lines:
        left, right = line.split(" - ")
        root, point, options, *optional = left.split()[3:]
        kind, source, rest = right.split(" ", 2)
        if point == "/":  # the file system that the tests are on
            source, rest = "SOURCE", rest.split(",")[0]
        shared = " ".join(re.sub(r":\d+", "", word) for word in optional)
        found.append(tidy(f"{point} {options} [{shared}] {kind} {source} {rest} {root}"))
    return sorted(found)


def described(state: dict[str, Any], tidy: Callable[[str], str]) -> list[str]:
    """What OCI says about the members of `state`; a pid is only said to be there."""
    members = ("ociVersion", "id", "status", "bundle", "annotations")
    lines = [f"{key} {tidy(json.dumps(state[key], sort_keys=True))}" for key in members[1:] if key in state]
    return [*lines, f"pid {'some' if state.get('pid') else 'none'}"]


def seen_from_the_host(pid: int, tidy: Callable[[str], str]) -> Observation:
    """Namespaces, cgroups and the like of *pid*, as the host has them."""
    process = Path(f"/proc/{pid}")
    spaces = []
    for name in sorted(os.listdir("/proc/self/ns")):
        same = os.readlink(f"/proc/self/ns/{name}") == os.readlink(process / "ns" / name)
        spaces.append(f"{name} {'the host' if same else 'own'}")
    return {
        "host namespaces": spaces,
        "host cgroup": sorted(tidy(line) for line in (process / "cgroup").read_text().splitlines()),
        "host oom": [(process / "oom_score_adj").read_text().strip()],
    }


def seen_cgroup(pid: int) -> str:
    """The path of the pids (or unified) cgroup of *pid*."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}
    return paths.get("pids") or paths.get("") or ""


def differences(one: Observation, other: Observation) -> list[str]:
    """What only *one* has, with `-`, and what only *other* has, with `+`."""
    found = []
    for section in sorted({*one, *other}):
        mine, theirs = one.get(section, []), other.get(section, [])
        found += [f"{section}: - {line}" for line in mine if line not in theirs]
        found += [f"{section}: + {line}" for line in theirs if line not in mine]
        if not found and mine != theirs and section in ("environ", "arguments", "limits"):
            found.append(f"{section}: another order")
    return found
