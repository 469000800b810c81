"""A root directory, and a Sandbox on it, for each attack."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc import Sandbox
from tests import rootfs as roots
from tests.oci.conftest import bundle, make_runtime, runtime, spec_text
from tests.oci.orphans import orphans_go_home

__all__ = ["bundle", "make_runtime", "orphans_go_home", "runtime", "spec_text"]

# What ./dev vm leaves out, since it takes minutes there and says little about cgroup v2. All of it runs by
# ./dev vm --timeout 900 -m "not soak" tests/safety
_NOT_UNDER_VM = {
    "test_oci_paths.py", "test_oci_processes.py",
    "test_leaks.py", "test_shim_leaks.py", "test_plan_attacks.py", "test_forged_words.py", "test_shim.py",
    "test_no_host_program_is_executed_through_a_descriptor", "test_a_failed_start_is_never_taken_for_an_end",
    "test_exchanged_mount_targets", "test_who_looks_into_a_program_does_not_choose_its_terminal",
    "test_the_containers_processes_cannot_look_into_what_joins",
    "test_who_may_trace_all_processes_finds_nothing_that_the_program_will_not_have",
    "test_much_output_is_all_there", "test_one_of_ours_is_killed", "test_the_program_itself_is_killed",
    "test_the_working_directory_is_inside_the_root", "test_who_shares_a_pid_namespace_does_not_get_into_an_init",
}  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the attacks run under the second kernel too, where cgroup v2 has its controllers: one variant of each.

    What the others differ by, such as the path that is attacked, is no matter of cgroups.
    """
    chosen = set()
    for item in items:
        names = {item.path.name, getattr(item, "originalname", "")}
        test = item.path.name, getattr(item, "originalname", item.name)
        if item.path.parent == Path(__file__).parent and not names & _NOT_UNDER_VM and test not in chosen:
            chosen.add(test)
            item.add_marker(pytest.mark.vm)


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A busybox root that a test may spoil."""
    root = roots.make(tmp_path / "rootfs")
    for applet in ("grep", "seq", "chmod", "pwd", "mkdir", "yes", "dd", "mount", "id", "mknod", "touch"):
        (root / "bin" / applet).symlink_to("busybox")
    return root


@pytest.fixture
def sandbox(rootfs: Path) -> Callable[..., Sandbox]:
    """Makes a Sandbox on `rootfs`, without the seccomp filter, which would stop some attacks early."""

    def make(**options: object) -> Sandbox:
        return Sandbox(rootfs, **{"seccomp": "unconfined", **options})  # type: ignore[arg-type]

    return make
