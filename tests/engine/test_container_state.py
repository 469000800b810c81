"""Which verb is possible in which state, in the words that dockerd 20.10 answered when it was asked."""

import pytest

from pyrunc.api import ContainerRecord
from pyrunc.engine.container_state import check
from pyrunc.errors import FailedPrecondition

ID = "a" * 64
STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
IDLE = f"Container {ID} is not running"
REMOVE = "You cannot remove a {} container " + ID + ". {} before attempting removal or force remove"
SOON = f"Container {ID} is restarting, wait until the container is running"
ANSWERS = {
    ("pause", "created"): IDLE, ("pause", "exited"): IDLE, ("pause", "paused"): f"Container {ID} is already paused",
    ("pause", "restarting"): SOON,
    ("unpause", "created"): f"Container {ID} is not paused", ("unpause", "running"): f"Container {ID} is not paused",
    ("unpause", "exited"): f"Container {ID} is not paused", ("unpause", "restarting"): f"Container {ID} is not paused",
    ("kill", "created"): IDLE, ("kill", "exited"): IDLE, ("exec", "created"): IDLE, ("exec", "exited"): IDLE,
    ("exec", "paused"): f"Container {ID} is paused, unpause the container before exec", ("exec", "restarting"): SOON,
    ("top", "created"): IDLE, ("top", "exited"): IDLE,
    ("attach", "created"): "You cannot attach to a stopped container, start it first",
    ("attach", "exited"): "You cannot attach to a stopped container, start it first",
    ("attach", "paused"): "You cannot attach to a paused container, unpause it first",
    ("attach", "restarting"): "You cannot attach to a restarting container, wait until it is running",
    ("remove", "running"): REMOVE.format("running", "Stop the container"),
    ("remove", "paused"): REMOVE.format("paused", "Unpause and then stop the container"),
    ("remove", "restarting"): REMOVE.format("restarting", "Stop the container"),
    ("start", "paused"): "cannot start a paused container, try unpause instead",
    ("start", "removing"): "container is marked for removal and cannot be started",
    ("start", "dead"): "container is marked for removal and cannot be started",
}  # fmt: skip
NOTHING = {
    ("start", "running"), ("start", "restarting"), ("stop", "created"), ("stop", "exited"), ("stop", "dead"),
    ("stop", "removing"),
}  # fmt: skip
DO = {
    ("start", "created"), ("start", "exited"), ("stop", "running"), ("stop", "paused"), ("stop", "restarting"),
    ("kill", "running"), ("kill", "paused"), ("kill", "restarting"), ("pause", "running"), ("unpause", "paused"),
    ("remove", "created"), ("remove", "exited"), ("remove", "dead"), ("remove", "removing"), ("exec", "running"),
    ("top", "running"), ("top", "paused"), ("attach", "running"),
    *((verb, state) for verb in ("restart", "update", "commit", "export")
      for state in ("created", "running", "paused", "restarting", "exited")),
}  # fmt: skip


def of(state: str) -> ContainerRecord:
    return ContainerRecord(ID, "one", "beta", "sha256:1", "vfs", {}, {}, {}, 0, state)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    "verb",
    [
        "start",
        "stop",
        "kill",
        "restart",
        "pause",
        "unpause",
        "remove",
        "exec",
        "top",
        "attach",
        "update",
        "commit",
        "export",
    ],
)
def test_a_verb_in_a_state(verb: str, state: str) -> None:
    try:
        answer: object = check(verb, of(state))  # type: ignore[arg-type]
    except FailedPrecondition as exc:
        answer = str(exc)
    if (verb, state) in DO:
        assert answer is True
    elif (verb, state) in NOTHING:
        assert answer is False
    else:
        # Docker could not be brought into all states; those have words of the same kind.
        assert isinstance(answer, str) and answer == ANSWERS.get((verb, state), answer)
