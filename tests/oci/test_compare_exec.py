"""What `exec` puts into a container is, with the same flags, the same as with runc; so are hooks.

Debian's crun gives an exec neither the limits nor the privileges of the document: it is no measure here.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.runtime.plan import HOOK_KINDS as KINDS
from tests.oci.observe import differences, sections, tidier
from tests.oci.runtime import SUBJECT, Runtime, unique_id
from tests.runtime.cgroup_support import needs_root

pytestmark = needs_root
Make = Callable[[str], Runtime]
Bundle = Callable[..., Path]
PEERS = [peer for peer in ("runc",) if peer != SUBJECT]

SCRIPT = r"""
export PATH=/bin
echo @environ; tr '\0' '\n' </proc/$$/environ
echo @cwd; pwd
echo @descriptors; for fd in /proc/$$/fd/*; do case ${fd##*/} in 10) ;; *) echo "${fd##*/}";; esac; done
echo @status; grep -E '^(Umask|Uid|Gid|Groups|Sig(Ign|Blk)|Cap|NoNewPrivs|Seccomp:|Cpus_allowed_list)' /proc/$$/status
echo @limits; cat /proc/$$/limits
echo @session; [ $(cut -d ' ' -f 6 /proc/$$/stat) = $$ ] && echo its own; cut -d ' ' -f 7 /proc/$$/stat
echo @oom; cat /proc/$$/oom_score_adj
echo @mounts; cat /proc/self/mountinfo | wc -l
echo @cgroup; cat /proc/self/cgroup | sort
echo @parent; cut -d ' ' -f 4 /proc/$$/stat
echo @spaces; for n in mnt pid ipc uts net cgroup; do
    [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo $n
done
echo @end
"""
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "nothing": ((), {}),
    "a user": (("--user", "1000:1001"), {}),
    "a uid": (("--user", "1000"), {}),
    "additional groups": (("--user", "1000:1001", "--additional-gids", "29", "--additional-gids", "44"), {}),
    "a working directory": (("--cwd", "/tmp"), {}),
    "an environment": (("--env", "A=b", "--env", "PATH=/bin", "--env", "TERM=dumb"), {}),
    "a capability": (("--cap", "CAP_SYS_ADMIN"), {}),
    "a capability of a user's": (("--user", "1000", "--cap", "CAP_CHOWN"), {}),
    "no new privileges": (("--no-new-privs",), {"process.noNewPrivileges": False}),
    "new privileges": ((), {"process.noNewPrivileges": False}),
    "limits": ((), {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]}),
    "an oom score": ((), {"process.oomScoreAdj": 300}),
    "a umask": ((), {"process.user": {"uid": 0, "gid": 0, "umask": 0o27}}),
    "a filter": (
        (), {"linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}
        ]}},
    ),
}  # fmt: skip
# Debian's runc gives the document's umask to the first program only; and Go raises its soft limit of open files to the
# hard one, at times behind runc's back.
UNLIKE_RUNC = (
    "parent: ",
    r"status: . Umask:\t00(22|27)",
    r"limits: (- Max open files +(100 +200|50 +60)|\+ Max open files +(200 +200|60 +60)) ",
)


def seen(runtime: Runtime, path: Path, flags: tuple[str, ...]) -> dict[str, list[str]]:
    """What a program finds that is executed in a container of *path*."""
    name = unique_id()
    runtime.create(path, name=name)
    runtime("start", name)
    out = runtime("exec", *flags, name, "/bin/sh", "-c", SCRIPT).out
    runtime.end(name)
    tidy = tidier({name: "ID"})
    return {section: [tidy(line) for line in lines] for section, lines in sections("\n" + out).items()}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", CASES)
def test_exec(name: str, peer: str, make_runtime: Make, bundle: Bundle, planner: Path) -> None:
    flags, changes = CASES[name]
    changes = {"linux.cgroupsPath": "/" + unique_id(), **changes}
    subject = make_runtime(SUBJECT)
    subject.planner = planner
    mine = seen(subject, bundle("ours", "/bin/sleep", "1000", **changes), flags)
    theirs = seen(make_runtime(peer), bundle("theirs", "/bin/sleep", "1000", **changes), flags)
    unlike = [
        line for line in differences(mine, theirs) if not any(re.match(way, line) for way in UNLIKE_RUNC)
    ]
    assert not unlike, "\n".join(unlike)


PROCESS = {
    "terminal": False, "user": {"uid": 1000, "gid": 1001, "additionalGids": [7]}, "cwd": "/tmp",
    "env": ["PATH=/bin", "X=y"],
    "args": ["/bin/sh", "-c", SCRIPT],
    "capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}], "noNewPrivileges": True, "oomScoreAdj": 400,
}  # fmt: skip


@pytest.mark.parametrize("peer", PEERS)
def test_exec_of_a_document(peer: str, make_runtime: Make, bundle: Bundle) -> None:
    found: list[dict[str, list[str]]] = []
    for runtime in (make_runtime(SUBJECT), make_runtime(peer)):
        path = bundle(f"bundle{len(found)}", "/bin/sleep", "1000")
        (path / "process.json").write_text(json.dumps(PROCESS))
        name = runtime.create(path)
        runtime("start", name)
        out = runtime("exec", "--process", str(path / "process.json"), name).out.replace(name, "ID")
        found.append(sections("\n" + out))
        runtime.end(name)
    # A container without a path has runc's own above it.
    ways = (*UNLIKE_RUNC, "cgroup: ")
    unlike = [line for line in differences(*found) if not any(re.match(way, line) for way in ways)]
    assert not unlike, "\n".join(unlike)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    "words",
    [
        ["/bin/sh", "-c", "exit 7"],
        ["/bin/sh", "-c", "kill -9 $$"],
        ["/no/such"],
        ["no-such"],
        ["/etc/passwd"],
        ["/tmp"],
    ],
)
def test_execs_exit_code(words: list[str], peer: str, make_runtime: Make, bundle: Bundle) -> None:
    codes: list[int] = []
    for runtime in (make_runtime(SUBJECT), make_runtime(peer)):
        path = bundle(f"bundle{len(codes)}", "/bin/sleep", "1000")
        (path / "rootfs/etc/passwd").write_text("")
        name = runtime.create(path)
        runtime("start", name)
        codes.append(runtime("exec", name, *words, code=None).code)
        runtime.end(name)
    assert codes[0] == codes[1], codes


STATUSES = ("creating", "creating", "creating", "created", "running", "stopped")
HOOK = r"""
read -r state
{ echo "@hook"; echo "$0 $1"; env | grep -v -E '^(_|PWD|SHLVL|OLDPWD)=' | sort; echo "$state"; } >>"$2"
"""


@pytest.mark.parametrize("peer", PEERS)
def test_hooks(peer: str, make_runtime: Make, bundle: Bundle) -> None:
    """Each kind once, in order, with its arguments and environment, and the state that OCI says."""
    found: list[list[list[str]]] = []
    for runtime in (make_runtime(SUBJECT), make_runtime(peer)):
        path = bundle(f"bundle{len(found)}", "/bin/sleep", "1000", root__readonly=False)
        said = path / "rootfs/tmp/said"
        document = json.loads((path / "config.json").read_text())
        document["hooks"] = {
            kind: [{
                "path": "/bin/sh", "env": ["PATH=/bin:/usr/bin", f"KIND={kind}"],
                "args": ["sh", "-c", HOOK, "hook", kind, "/tmp/said" if kind == "startContainer" else str(said)],
            }]
            for kind in KINDS
        }  # fmt: skip
        document["annotations"] = {"org.example/a": "b"}
        (path / "config.json").write_text(json.dumps(document))
        name = runtime.create(path)
        runtime("start", name)
        runtime.end(name)
        found.append(told(said.read_text(), {name: "ID", str(path): "BUNDLE"}))
    mine, theirs = found
    assert [hook[0] for hook in mine] == [f"hook {kind}" for kind in KINDS]
    assert [json.loads(hook[-1])["status"] for hook in mine] == list(STATUSES)
    # Debian's runc calls poststart before the start.
    assert [hook for hook in mine if "poststart" not in hook[0]] == [
        hook for hook in theirs if "poststart" not in hook[0]
    ]


def told(text: str, words: dict[str, str]) -> list[list[str]]:
    """What each hook has written, with the members of the state that OCI names."""
    tidy = tidier(words)
    hooks = []
    for block in text.split("@hook\n")[1:]:
        *lines, last = block.splitlines()
        state = {
            key: value
            for key, value in json.loads(last).items()
            if key in ("id", "status", "bundle", "annotations")
        }
        hooks.append([tidy(line) for line in (*lines, json.dumps(state, sort_keys=True))])
    return hooks
