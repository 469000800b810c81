"""The hooks of a container: which run, when, where, and what of a failure becomes of the container."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.runtime.plan import HOOK_KINDS as KINDS
from tests.oci.bundles import Runtime, cgroups, document
from tests.oci.test_rivals import background
from tests.oci.waiting import PATIENCE_S, until


@pytest.fixture
def hooked(oci: Runtime, tmp_path: Path, make_rootfs: Callable[[Path], Path]) -> Callable[..., Path]:
    """Makes a bundle each of whose hooks adds a line with its kind and its state to a file that all of them see."""
    oci.rootfs = make_rootfs(tmp_path / "root")
    (oci.rootfs / "log").touch()

    def make(args: list[str], **failing: str) -> Path:
        spec: dict[str, Any] = document(oci.rootfs, args)
        spec["root"]["readonly"] = False
        spec["hooks"] = {}
        for kind in KINDS:
            # By the path of who executes it: the host's, but for the one that runs in the container.
            log = "/log" if kind == "startContainer" else f"{oci.rootfs}/log"
            script = failing.get(kind, f"read -r state; echo {kind} $state >> {log}")
            spec["hooks"][kind] = [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
        return oci.write(tmp_path / "b", spec)

    return make


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def lines(oci: Runtime) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for line in (oci.rootfs / "log").read_text().splitlines():
        kind, _, state = line.partition(" ")
        found.append((kind, json.loads(state) if state else {}))
    return found


def test_each_runs_once_in_its_place_and_is_told_the_state(oci: Runtime, hooked: Callable[..., Path]) -> None:
    bundle = hooked(["sh", "-c", "echo program >> /log; sleep 100"])
    oci.call("create", "-b", bundle, oci.id)
    pid = oci.state()["pid"]
    assert [kind for kind, _ in lines(oci)] == ["prestart", "createRuntime", "createContainer"]
    oci.call("start", oci.id)
    oci.wait("running")
    until(lambda: "program\n" in (oci.rootfs / "log").read_text(), "it has said nothing")
    oci.end()
    found = lines(oci)
    assert {kind for kind, _ in found} == {*KINDS, "program"}
    assert len(found) == len(KINDS) + 1
    states = dict(found)
    assert [found[0][0], found[1][0], found[2][0], found[3][0]] == [*KINDS[:4]]
    assert found[-1][0] == "poststop"
    statuses = {kind: state["status"] for kind, state in states.items() if state}
    assert statuses == {
        "prestart": "creating", "createRuntime": "creating", "createContainer": "creating",
        "startContainer": "created", "poststart": "running", "poststop": "stopped",
    }  # fmt: skip
    assert states["createRuntime"]["pid"] == states["poststart"]["pid"] == pid
    assert states["prestart"]["bundle"] == str(bundle)


def test_run_runs_them_too(oci: Runtime, hooked: Callable[..., Path]) -> None:
    oci.call("run", "-b", hooked(["sleep", "0.3"]), oci.id)
    assert [kind for kind, _ in lines(oci)] == [*KINDS]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_one_that_fails_ends_the_container(oci: Runtime, hooked: Callable[..., Path], kind: str) -> None:
    bundle = hooked(["true"], **{kind: "echo out; echo err >&2; exit 3"})
    done = oci.call("create", "-b", bundle, oci.id, code=1)
    words = "error running hook #0: error running hook: exit status 3, stdout: out\\n, stderr: err\\n"
    assert "runc create failed: " in done.stderr
    assert words in done.stderr
    assert not oci.directory.exists()
    assert not cgroups(oci.id)
    assert [name for name, _ in lines(oci)] == [*KINDS[: KINDS.index(kind)], "poststop"]
    assert lines(oci)[-1][1]["status"] == "stopped"


def test_poststop_takes_down_what_others_have_set_up_for_a_program_that_is_not_there(
    oci: Runtime, hooked: Callable[..., Path]
) -> None:
    done = oci.call("run", "-b", hooked(["no-such-program"], poststop="exit 3"), oci.id, code=1)
    assert "executable file not found" in done.stderr  # and not what the hook failed with
    assert [name for name, _ in lines(oci)] == [*KINDS[:3]]
    oci.call("run", "-b", hooked(["no-such-program"]), oci.id, code=1)
    assert lines(oci)[-1][0] == "poststop"


def test_a_poststart_that_fails_ends_what_run_has_started(oci: Runtime, hooked: Callable[..., Path]) -> None:
    done = oci.call("run", "-b", hooked(["sleep", "100"], poststart="exit 3"), oci.id, code=1)
    assert "runc run failed: error running hook #0: error running hook: exit status 3" in done.stderr
    assert not oci.directory.exists()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda n: n.name
)
@pytest.mark.parametrize("kind", KINDS[:4])
def test_a_signal_ends_a_run_that_waits_for_a_hook(
    oci: Runtime, hooked: Callable[..., Path], kind: str, number: signal.Signals
) -> None:
    """There is no program yet that it could be passed on to."""
    place = "" if kind == "startContainer" else oci.rootfs
    bundle = hooked(["true"], **{kind: f"echo $$ > {place}/begun; exec sleep 1000"})
    said = oci.root.parent / "said"
    with background(oci, "run", "-b", bundle, oci.id) as creator:
        until(lambda: (oci.rootfs / "begun").exists() and (oci.rootfs / "begun").read_text(), "no hook")
        pid = int((oci.rootfs / "begun").read_text())
        creator.send_signal(number)
        assert creator.wait(PATIENCE_S) == 1
    assert "interrupted by a signal" in said.read_text()
    if kind in KINDS[:2]:
        until(lambda: not alive(pid), "it goes on")
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


@pytest.mark.parametrize("pids", [True, False], ids=["own pids", "the host's pids"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_one_of_a_creation_does_not_outlive_a_killed_creator(
    oci: Runtime, hooked: Callable[..., Path], tmp_path: Path, kind: str, pids: bool
) -> None:
    """Nor does what it has started; runc leaves both, and the cgroups."""
    script = f"sleep 1000 & echo $! $$ > {tmp_path}/.begun; mv {tmp_path}/.begun {tmp_path}/begun; wait"
    bundle = hooked(["true"], **{kind: script})
    spec = json.loads((bundle / "config.json").read_text())
    spec["hooks"] = {kind: spec["hooks"][kind]}
    if not pids:
        spec["linux"]["namespaces"] = [{"type": "mount"}]
        del spec["hostname"]
    (bundle / "config.json").write_text(json.dumps(spec))
    with background(oci, "create", "-b", bundle, oci.id) as creator:
        until((tmp_path / "begun").exists, "no hook")
        members = [pid for group in cgroups(oci.id) for pid in (group / "cgroup.procs").read_text().split()]
        own = kind == "createContainer" and pids
        of_hook = [*map(int, members)] if own else [*map(int, (tmp_path / "begun").read_text().split())]
        assert of_hook
        assert all(alive(pid) for pid in of_hook)
        creator.kill()
        creator.wait()
    until(lambda: not any(alive(pid) for pid in of_hook), "it goes on")
    oci.wait("stopped")
    oci.call("delete", "--force", oci.id)
    assert not oci.directory.exists()
    assert not cgroups(oci.id)


def test_those_on_the_host_run_in_the_bundle(
    oci: Runtime, hooked: Callable[..., Path], tmp_path: Path
) -> None:
    kinds = ("prestart", "createRuntime", "poststart", "poststop")
    where = {kind: f"cat > /dev/null; echo {kind} $(pwd) >> {tmp_path}/places" for kind in kinds}
    bundle = hooked(["sleep", "0.2"], **where)
    oci.call("run", "-b", bundle, oci.id)
    assert (tmp_path / "places").read_text().splitlines() == [f"{kind} {bundle}" for kind in kinds]
    oci.call("create", "-b", bundle, oci.id)
    oci.call("start", oci.id)
    oci.wait("stopped")
    oci.call("delete", oci.id, cwd=tmp_path)
    # `delete` has no bundle: as with runc, it is where its caller is.
    found = (tmp_path / "places").read_text().splitlines()[4:]
    assert found == [*(f"{kind} {bundle}" for kind in kinds[:3]), f"poststop {tmp_path}"]


def test_a_start_container_that_fails_is_not_followed_by_the_program(
    oci: Runtime, hooked: Callable[..., Path]
) -> None:
    done = oci.call("run", "-b", hooked(["echo", "ran"], startContainer="exit 3"), oci.id, code=1)
    assert "ran" not in done.stdout
    assert "error running hook #0: error running hook: exit status 3" in done.stderr
    assert not oci.directory.exists()


def test_a_hook_finds_the_root_in_the_containers_mount_namespace(
    oci: Runtime, hooked: Callable[..., Path]
) -> None:
    mount = f"nsenter -t $pid -m mount -t tmpfs hook {oci.rootfs}/mnt"
    script = f'read -r state; pid=${{state##*pid\\":}}; pid=${{pid%%,*}}; {mount}'
    (oci.rootfs / "mnt").mkdir(exist_ok=True)
    done = oci.call("run", "-b", hooked(["grep", " /mnt ", "/proc/mounts"], createRuntime=script), oci.id)
    assert done.stdout.startswith("hook /mnt tmpfs ")


def test_a_start_that_fails_is_told_in_the_log(oci: Runtime, tmp_path: Path) -> None:
    """Natively too: containerd reads the reason there, and nowhere else."""
    spec = document(oci.rootfs, ["true"])
    spec["hooks"] = {"startContainer": [{"path": "/bin/false"}]}
    oci.call("create", "--bundle", oci.write(tmp_path / "b", spec), oci.id)
    log = tmp_path / "log"
    oci.call("--log", log, "--log-format", "json", "start", oci.id, code=1)
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["level"] == "error"
    assert line["msg"].endswith(
        "error during container init: error running startContainer hook: exit status 1"
    )


def test_a_hook_of_the_hosts_has_nothing_of_the_containers_environment(oci: Runtime, tmp_path: Path) -> None:
    spec = document(oci.rootfs, ["true"])
    spec["process"]["env"].append("LD_PRELOAD=/of/the/container.so")
    spec["hooks"] = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", f"env > {tmp_path}/env"]}]}
    oci.call("run", "-b", oci.write(tmp_path / "b", spec), oci.id)
    assert {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()} <= {
        "PWD",
        "_",
        "SHLVL",
    }
