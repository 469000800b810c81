"""Programs in running containers: what joins a container has nothing that the container's processes could take."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox, SandboxProcess, errors
from pyrunc._native import namespaces
from pyrunc.runtime import joining, spawner
from pyrunc.runtime.plan import PlanTemplate
from tests.child import in_child
from tests.safety import support
from tests.safety.test_host_files import holds

Make = Callable[..., Sandbox]
_HELD = 0xA80425FB  # Docker's set
_SYS_PTRACE = 1 << 19

# Looks at whatever appears beside it in /proc before its program runs, until it is told to end.
SPY = """
import json, os, signal, sys
seen = {"met": 0, "opened": {}, "fds": [], "capabilities": [], "written": 0}
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
known = set(os.listdir("/proc"))
print("ready", flush=True)
def young(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().startswith("pyrunc-")
while not over:
    for pid in set(os.listdir("/proc")) - known:
        if not pid.isdigit():
            continue
        try:
            while young(pid):
                status = dict(l.split(":\\t") for l in open(f"/proc/{pid}/status").read().splitlines() if ":\\t" in l)
                seen["met"] += 1
                found, fds = [], []
                for name in ("mem", "environ", "maps", "exe", "cwd", "root", "fd"):
                    try:
                        if name in ("exe", "cwd", "root"):
                            os.readlink(f"/proc/{pid}/{name}")
                        elif name == "fd":
                            fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
                        else:
                            with open(f"/proc/{pid}/{name}", "rb") as file:
                                file.read(0 if name == "mem" else 1)
                        found.append(name)
                    except OSError:
                        pass
                try:
                    with open(f"/proc/{pid}/exe", "r+b", buffering=0) as file:
                        file.write(b"x")
                    written = 1
                except OSError:
                    written = 0
                if young(pid):
                    seen["written"] += written
                    seen["fds"] += fds
                    seen["capabilities"].append(int(status["CapPrm"], 16) | int(status["CapInh"], 16))
                    for name in found:
                        seen["opened"][name] = seen["opened"].get(name, 0) + 1
        except (OSError, KeyError, ValueError):
            pass
        if not os.path.exists(f"/proc/{pid}"):
            known.discard(pid)
for key in ("fds", "capabilities"):
    seen[key] = sorted(set(seen[key]))
print(json.dumps(seen), flush=True)
"""


@contextmanager
def python_container(sandbox: Make, **options: Any) -> Iterator[SandboxProcess]:
    box = sandbox(mounts=support.python_mounts(), **options)
    with box.start(["/bin/sleep", "600"]) as process:
        yield process


def spied_on(process: SandboxProcess, template: PlanTemplate | None) -> dict[str, Any]:
    """What a spy in the container has seen of 40 programs that start there, by *template* if one is given.

    Where the spy was not scheduled in time it has met none: it is tried again then.
    """
    found: dict[str, Any] = {}
    for _ in range(10):
        found = _spied_once(process, template)
        if found["met"] and found["capabilities"]:
            break
    return found


def _spied_once(process: SandboxProcess, template: PlanTemplate | None) -> dict[str, Any]:
    reading, writing = os.pipe()
    with process.exec_start(support.python(SPY), stdout=writing) as spy, open(reading) as said:
        os.close(writing)
        assert said.readline() == "ready\n"
        assert process._child.origin is not None
        launcher = process._child.origin[0]
        kept = dict(launcher.joins)
        if template is not None:
            launcher.joins[joining.Join()] = template
        for _ in range(40):
            process.exec(["/bin/true"], timeout_s=30)
        launcher.joins.clear()
        launcher.joins.update(kept)
        spy.kill(signal.SIGTERM)
        found: dict[str, Any] = json.loads(said.readline())
        spy.wait(60)
    return found


def slow(process: SandboxProcess, *, early: bool = False) -> PlanTemplate:
    """The plan that `exec` walks, its end drawn out; *early* makes the process first and takes its rights later."""
    plan = joining.compile_join(process._child.template, joining.Join())
    steps = plan.steps
    fork = next(step for step in steps if step.op == "fork")
    idle = next(step for step in steps if step.op == "umask")
    if early:
        steps.remove(fork)
        steps.insert(next(at for at, step in enumerate(steps) if step.op == "bounding"), fork)
    at = steps.index(fork) + 1
    steps[at:at] = [idle] * 7000
    plan.freeze()
    return plan


def test_the_containers_processes_cannot_look_into_what_joins(sandbox: Make) -> None:
    """CVE-2016-9962: a process that is not dumpable, whoever is root in the container."""
    with python_container(sandbox) as process:
        found = spied_on(process, slow(process))
        assert found["met"] > 0
        assert found["opened"] == {}


def test_who_may_trace_all_processes_finds_nothing_that_the_program_will_not_have(sandbox: Make) -> None:
    """With CAP_SYS_PTRACE of the host's user namespace nothing is hidden: so there is nothing to hide."""
    with python_container(sandbox, cap_add=["SYS_PTRACE"]) as process:
        found = spied_on(process, slow(process))
        assert found["opened"].keys() >= {"mem", "environ", "fd", "exe"}  # the attack of the other test works
        assert found["capabilities"] == [_HELD | _SYS_PTRACE]
        assert {link.split(":")[0] for link in found["fds"]} <= {"/dev/null", "pipe", "socket"}
        assert found["written"] == 0  # CVE-2019-5736: it is a sealed memfd
        careless = spied_on(process, slow(process, early=True))
        assert max(careless["capabilities"]) & ~(_HELD | _SYS_PTRACE)


def test_a_working_directory_does_not_lead_through_a_descriptor_of_the_hosts(
    rootfs: Path, sandbox: Make, tmp_path: Path
) -> None:
    """CVE-2024-21626, with the host's procfs too, in which /proc/self is the process that joins."""
    for number in range(40):
        (rootfs / f"fd{number}").symlink_to(f"/proc/self/fd/{number}")
    for options in ({}, {"pid": "host"}):
        with sandbox(**options).start(["/bin/sleep", "600"]) as process:
            for number in range(40):
                with pytest.raises(errors.StartError, match="cannot enter the working directory"):
                    process.exec(["/bin/pwd"], cwd=f"/fd{number}")

            def careless() -> None:
                held = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
                pidfd = os.pidfd_open(process.pid)
                namespaces.setns(pidfd, namespaces.CLONE_NEWNS)
                os.chdir(f"/proc/{os.getpid()}/fd/{held}")
                assert os.stat(".").st_ino == os.fstat(held).st_ino

            if options:
                in_child(careless)


def test_a_program_of_the_image_cannot_overwrite_what_executes_it(rootfs: Path, sandbox: Make) -> None:
    """CVE-2019-5736: `#!/proc/self/exe` makes who executes it execute itself."""
    (rootfs / "bin/trap").write_text("#!/proc/self/exe\n")
    (rootfs / "bin/trap").chmod(0o755)
    before = Path(spawner.init_path()).read_bytes()
    with sandbox().start(["/bin/sleep", "600"]) as process:
        try:
            process.exec(["/bin/trap"], timeout_s=60)
        except errors.StartError:
            pass
        assert process.exec(["/bin/true"]).exit_code == 0
    assert Path(spawner.init_path()).read_bytes() == before


def test_the_containers_passwd_does_not_lead_to_the_hosts(sandbox: Make, tmp_path: Path) -> None:
    """It is the container's by now, which may have made a symlink of it since the start, or a pipe that never ends."""
    secret = tmp_path / "passwd"
    secret.write_text("someone:x:1234:1234::/:/bin/sh\n")
    with sandbox().start(["/bin/sleep", "600"]) as process:
        for script in (f"ln -sf {secret} /etc/passwd", "rm /etc/passwd; mkfifo /etc/passwd"):
            assert process.exec(["/bin/busybox", "sh", "-c", script]).exit_code == 0
            with pytest.raises(errors.NotFound):
                process.exec(["/bin/true"], user="someone")
        assert "someone" in secret.read_text()


def test_another_process_with_its_number_is_not_joined(sandbox: Make) -> None:
    """The container is known by a pidfd; a number may be another's by then."""
    with sandbox().start(["/bin/sleep", "600"]) as process, sandbox().start(["/bin/sleep", "600"]) as other:
        os.kill(process.pid, signal.SIGKILL)
        assert support.wait_until(lambda: not os.path.exists(f"/proc/{process.pid}"))
        process._child.pid = other.pid
        for user in (None, "0"):
            with pytest.raises(errors.FailedPrecondition, match="is not running"):
                process.exec(["/bin/true"], user=user)


def test_the_environment_of_one_program_is_not_left_for_the_next(sandbox: Make) -> None:
    """The supervisor of one serves another."""
    secret = os.urandom(16).hex()
    with sandbox().start(["/bin/sleep", "600"]) as process:
        for _ in range(5):
            process.exec(["/bin/true"], env={"SECRET": secret})

        def kept() -> bool:
            pids = [support.spawner_pid(), *support.children(support.spawner_pid())]
            return any(holds(pid, secret.encode()) for pid in pids)

        assert support.wait_until(lambda: not kept())
        with process.exec_start(["/bin/sleep", "600"], env={"SECRET": secret}) as program:
            assert support.memory_contains(program.pid, secret.encode())
            assert support.memory_contains(support.supervisor_of(program.pid), secret.encode())
