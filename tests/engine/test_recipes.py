"""Containers that are made alike share what is compiled, and nothing else."""

import os
from typing import Any

import pytest

from pyrunc import Engine, errors


def test_containers_that_are_made_alike_have_files_of_their_own(loaded: Engine) -> None:
    script = 'ls /own* 2>/dev/null; echo "$HOSTNAME" > /own-$HOSTNAME'
    hosts = set()
    for _ in range(12):  # so that the numbers of the snapshots get another digit
        done = loaded.run("beta", ["sh", "-c", script], entrypoint=[], remove=False)
        assert (done.exit_code, done.stdout) == (0, b"")
        short = done.container_id[:12]
        assert [path for _, path in loaded.containers.get(done.container_id).diff()] == [f"/own-{short}"]
        hosts.add(short)
    assert len(hosts) == 12


def test_a_container_that_starts_again_has_what_it_wrote(loaded: Engine) -> None:
    script = "cat /own 2>/dev/null; id -u; echo 'root:x:0:0::/elsewhere:' > /etc/passwd; echo mine > /own"
    argv: list[str] = ["sh", "-c", script + "; echo ~root"]
    first = loaded.start("beta", argv, entrypoint=[])
    second = loaded.start("beta", argv, entrypoint=[])
    for container in (first, second):
        assert container.wait(60) == 0
    first.start()
    assert first.wait(60) == 0
    said = [b"".join(entry.data for entry in each.logs()).decode().split() for each in (first, second)]
    assert said[1] == ["0", "/elsewhere"]
    assert said[0] == ["0", "/elsewhere", "mine", "0", "/elsewhere"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"env": {"WHO": "one"}}, {"env": {"WHO": "other"}}),
        ({"user": "1"}, {"user": "2"}),
        ({"cwd": "/tmp"}, {"cwd": "/"}),
        ({"hostname": "one"}, {"hostname": "other"}),
    ],
)
def test_what_is_made_otherwise_is_other(loaded: Engine, one: dict[str, Any], other: dict[str, Any]) -> None:
    def told(options: dict[str, Any]) -> bytes:
        argv = ["sh", "-c", "echo $WHO; id -u; pwd; hostname"]
        return loaded.run(
            "beta", argv, entrypoint=[], scratch="disk", **{"hostname": "own", **options}
        ).stdout

    assert told(one) == told(one) != told(other) == told(other)


def test_the_plan_of_what_runs_on_is_not_kept(loaded: Engine) -> None:
    def plans() -> list[str]:
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                continue  # that of the listing itself
        return [link for link in links if "pyrunc-plan" in link]

    before = plans()
    with loaded.start("beta", ["sleep", "100"], entrypoint=[]) as container:
        assert plans() == before
        assert container.exec(["true"]).exit_code == 0


def test_a_start_that_fails_names_the_files_of_its_own_container(loaded: Engine) -> None:
    for _ in range(2):
        with pytest.raises(errors.CommandNotFound, match="nowhere"):
            loaded.run("beta", ["nowhere"], entrypoint=[], scratch="disk")
    assert loaded.containers.list(all=True) == []
