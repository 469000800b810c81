"""`plan`: what would be done, without doing any of it."""

from pathlib import Path

from tests.oci.bundles import Runtime, cgroups


def test_the_plan_of_a_bundle_is_printed_and_nothing_is_done(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", ["sh", "-c", "true"], terminal=True)
    lines = oci.call("plan", bundle).stdout.splitlines()
    steps = [line.split()[2] for line in lines if line.startswith(("host", "init"))]
    assert (
        steps.index("pivot_root") < steps.index("lookup") < steps.index("wait_start") < steps.index("execve")
    )
    assert "argv ['sh', '-c', 'true']" in lines
    assert f"oci   state {oci.root}/ID terminal" in lines
    assert not oci.root.exists()
    assert not cgroups(oci.id)


def test_what_cannot_be_planned_is_said(oci: Runtime, tmp_path: Path) -> None:
    bundle = oci.bundle(tmp_path / "b", [])
    assert "process.args: " in oci.call("plan", bundle, code=1).stderr
