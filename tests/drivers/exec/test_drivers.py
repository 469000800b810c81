"""Which exec drivers there are, what they refuse, and how Python names one."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyrunc
from pyrunc.drivers import registry
from pyrunc.drivers.exec.native import Native
from pyrunc.drivers.exec.oci import Oci
from pyrunc.errors import CommandNotFound, InvalidArgument, StartError
from tests.drivers.exec.conftest import Pyrunc, image, needs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def engine(tmp_path: Path, busybox: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pyrunc.Engine]:
    monkeypatch.setenv("PYRUNC_STATE", str(tmp_path / "state"))
    with pyrunc.Engine(tmp_path / "root") as found:
        (tmp_path / "tar").write_bytes(image(busybox))
        found.images.import_(str(tmp_path / "tar"), "tools")
        yield found
        for record in found.containers.list(all=True):
            found.containers.get(record.id).remove(force=True)


def test_names() -> None:
    needs("runc")
    assert isinstance(registry.exec_driver(None), Native)
    assert registry.exec_driver("native").name == registry.exec_driver("pyrunc").name == "pyrunc"
    runc = registry.exec_driver("runc")
    assert isinstance(runc, Oci)
    assert os.path.basename(runc.path) == "runc"
    assert registry.exec_driver(runc.path).path == runc.path
    for unknown in ("nosuch", "/nosuch/runtime", "/etc/passwd", "../runc"):
        with pytest.raises(InvalidArgument, match=f"Unknown runtime specified {unknown}"):
            registry.exec_driver(unknown)


def test_info_lists_them(tmp_path: Path) -> None:
    needs("runc")
    found = json.loads(Pyrunc(tmp_path, "runc")("info", "--format", "{{json .}}").stdout)
    assert found["DefaultRuntime"] == "pyrunc"
    assert {"pyrunc", "pyrunc-oci", "runc"} <= found["Runtimes"].keys()
    assert all(os.access(each["path"], os.X_OK) for each in found["Runtimes"].values())


def test_what_is_not_honoured_is_refused_by_name(tmp_path: Path) -> None:
    needs("runc")
    pyrunc = Pyrunc(tmp_path, "runc")
    answer = pyrunc("run", "--rm", "--allow-host-image", "--runtime", "runc", "host", "true", code=125)
    assert "a container of the host's root is the native driver's, and not runc's" in answer.stderr
    features = json.loads(subprocess.run(["runc", "features"], capture_output=True, check=True).stdout)
    if features["ociVersionMax"].startswith("1.0."):
        words = "run --rm --allow-host-image --runtime runc --domainname b.c host true"
        answer = pyrunc(*words.split(), code=125)
        assert "--domainname: the runtime runc is older than OCI 1.1 and would pass over it" in answer.stderr
    assert pyrunc("ps", "-aq").stdout == ""


def test_from_python(engine: pyrunc.Engine) -> None:
    needs("runc")
    runc = {"Runtime": "runc"}
    with engine.start("tools", ["sh", "-c", "exit 5"], host_config=runc) as container:
        assert container.wait(timeout_s=60) == 5
    with engine.start("tools", ["sleep", "100"], host_config=runc) as container:
        assert container.exec(["sh", "-c", "exit 4"]).exit_code == 4
        assert len(container.exec_detached(["true"])) == 64
        container.kill()
    with pytest.raises(CommandNotFound, match="OCI runtime create failed"):
        engine.start("tools", ["nosuch"], host_config=runc)


def test_a_runtime_that_fails_leaves_a_container_that_says_why(engine: pyrunc.Engine, tmp_path: Path) -> None:
    program = tmp_path / "runtime"
    program.write_text("#!/bin/sh\necho it does not want to >&2\nexit 3\n")
    program.chmod(0o755)
    words = (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        f"{program} did not terminate successfully: exit status 3: it does not want to: unknown"
    )
    with pytest.raises(StartError, match=re.escape(words)):
        engine.start("tools", ["true"], name="one", host_config={"Runtime": str(program)})
    container = engine.containers.get("one")
    record = container.record()
    assert (record.state, record.error, record.exit_code) == ("created", words, 125)
    assert list(container.logs()) == []
    assert os.listdir(tmp_path / "state") in ([], ["seccomp"])


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_container_whose_runtime_is_removed_can_be_ended(
    engine: pyrunc.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    needs("runc")
    program = tmp_path / "runtime"
    program.symlink_to(registry.exec_driver("runc").path)
    container = engine.start("tools", ["sleep", "600"], host_config={"Runtime": str(program)})
    program.unlink()
    if forgotten:
        monkeypatch.setattr(registry, "_exec", {})
    container.kill()
    assert container.wait(timeout_s=60) == 137
    container.remove()
    monkeypatch.setattr(registry, "_exec", {})
    with pytest.raises(InvalidArgument, match="Unknown runtime specified"):
        engine.start("tools", ["true"], host_config={"Runtime": str(program)})
