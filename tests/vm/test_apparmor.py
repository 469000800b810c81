"""A profile of AppArmor confines a container's program, from its execve on and no sooner."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Sandbox
from pyrunc.errors import StartError
from pyrunc.runtime import process_labels
from tests import rootfs as rootfs_of
from tests.spec_run import bundle_spec, run_spec
from tests.vm import linux, needs

pytestmark = [
    pytest.mark.vm, needs.root(),
    pytest.mark.skipif(not process_labels.apparmor_enabled(), reason="needs AppArmor: run ./dev vm"),
    pytest.mark.skipif(shutil.which("apparmor_parser") is None, reason="needs apparmor_parser"),
]  # fmt: skip
NAME = "pyrunc-test"
# Nothing of what init itself does but to execute: mounts, capabilities, pivot_root are not among it.
PROFILE = f"profile {NAME} flags=(attach_disconnected) {{\n  file,\n  deny /forbidden rwklx,\n}}\n"


@pytest.fixture(scope="module", autouse=True)
def _profile(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kernel knows the profile, for as long as this virtual machine lives."""
    security = Path("/sys/kernel/security")
    if not (security / "apparmor").exists():
        linux.mount("securityfs", str(security), "securityfs")
    file = tmp_path_factory.mktemp("profile") / NAME
    file.write_text(PROFILE)
    subprocess.run(["apparmor_parser", "--replace", "--skip-cache", file], check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = rootfs_of.make(tmp_path_factory.mktemp("image") / "rootfs")
    (found / "forbidden").write_text("secret\n")
    return found


def confined(profile: str, **process: Any) -> dict[str, Any]:
    spec = bundle_spec()
    spec["process"].update(apparmorProfile=profile, **process)
    return spec


@pytest.mark.parametrize("privileges", [False, True])
def test_the_program_is_confined(root: Path, privileges: bool) -> None:
    script = "cat /proc/self/attr/apparmor/current; cat /forbidden 2>&1 || true"
    words = run_spec(root, confined(NAME, noNewPrivileges=privileges), script).splitlines()
    assert words == [f"{NAME} (enforce)", "cat: can't open '/forbidden': Permission denied"]
    assert run_spec(root, bundle_spec(), script).splitlines() == ["unconfined", "secret"]


def test_without_a_procfs_of_its_own_too(root: Path) -> None:
    spec = confined(NAME)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/proc"]
    del spec["linux"]["maskedPaths"], spec["linux"]["readonlyPaths"]
    assert "Permission denied" in run_spec(root, spec, "cat /forbidden 2>&1 || true")


def test_who_joins_the_container_is_confined_too(root: Path) -> None:
    spec = confined(NAME)
    spec["root"]["path"] = str(root)
    with Sandbox.from_spec(spec, root.parent) as box, box.start(["/bin/sleep", "100"]) as running:
        found = running.exec(["/bin/cat", "/proc/self/attr/apparmor/current"])
        assert found.stdout.decode().strip() == f"{NAME} (enforce)"


def test_a_profile_that_the_kernel_does_not_know_is_named(root: Path) -> None:
    with pytest.raises(StartError, match="cannot set the label nosuch: no such file or directory"):
        run_spec(root, confined("nosuch"), "true")
