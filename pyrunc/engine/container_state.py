"""Which verb is allowed in which state of a container, and Docker's words where it is not.

verb      done in                       nothing to do in               refused in
start     created exited                running restarting             paused removing dead
stop      running paused restarting     all others
kill      running paused restarting                                    all others
restart   all but the refused                                          removing dead
pause     running                                                      all others
unpause   paused                                                       all others
remove    created exited dead removing                                 running paused restarting (unless forced)
exec top  running (top: paused too)                                    all others
attach    running                                                      all others
update    all but the refused                                          removing dead
commit    all but the refused                                          removing dead
export    all but the refused                                          removing dead

Source: what dockerd 20.10 answers (tests/engine/test_life_words.py asks it).
"""

from pyrunc.errors import FailedPrecondition

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import Literal

    from pyrunc.api import ContainerRecord

    Verb = Literal[
        "start", "stop", "kill", "restart", "pause", "unpause", "remove", "exec", "top", "attach", "update", "commit",
        "export",
    ]  # fmt: skip

_DO, _NOTHING = "do", "nothing"
_GOING = "container is marked for removal and cannot be started"
_IDLE = "Container {id} is not running"
_SOON = "Container {id} is restarting, wait until the container is running"
_UNPAUSED = "Container {id} is not paused"
_REMOVE = "You cannot remove a {state} container {id}. {how} before attempting removal or force remove"
_UPDATE = 'Cannot update container {id}: Container is marked for removal and cannot be "update".'
_WENT = "You cannot {verb} container {id} which is being removed"
_DEAD = "You cannot {verb} container {id} which is Dead"
_STOPPED = "You cannot attach to a stopped container, start it first"

# For each verb what is due in the states that are named, and in all others.
_TABLE: "dict[Verb, tuple[dict[str, str], str]]" = {
    "start": (
        {
            "running": _NOTHING, "restarting": _NOTHING, "removing": _GOING, "dead": _GOING,
            "paused": "cannot start a paused container, try unpause instead",
        },
        _DO,
    ),
    "stop": ({"running": _DO, "paused": _DO, "restarting": _DO}, _NOTHING),
    "kill": ({"running": _DO, "paused": _DO, "restarting": _DO}, _IDLE),
    "restart": ({"removing": _GOING, "dead": _GOING}, _DO),
    "pause": ({"running": _DO, "paused": "Container {id} is already paused", "restarting": _SOON}, _IDLE),
    "unpause": ({"paused": _DO}, _UNPAUSED),
    "remove": ({"running": _REMOVE, "paused": _REMOVE, "restarting": _REMOVE}, _DO),
    "exec": (
        {
            "running": _DO, "restarting": _SOON,
            "paused": "Container {id} is paused, unpause the container before exec",
        },
        _IDLE,
    ),
    "top": ({"running": _DO, "paused": _DO, "restarting": _SOON}, _IDLE),
    "attach": (
        {
            "running": _DO, "paused": "You cannot attach to a paused container, unpause it first",
            "restarting": "You cannot attach to a restarting container, wait until it is running",
        },
        _STOPPED,
    ),
    "update": ({"removing": _UPDATE, "dead": _UPDATE}, _DO),
    "commit": ({"removing": _WENT, "dead": _DEAD}, _DO),
    "export": ({"removing": _WENT, "dead": _DEAD}, _DO),
}  # fmt: skip


def check(verb: "Verb", record: "ContainerRecord") -> bool:
    """Whether *verb* has something to do; False if it is so already. Raises FailedPrecondition in Docker's words."""
    named, others = _TABLE[verb]
    due = named.get(record.state, others)
    if due in (_DO, _NOTHING):
        return due == _DO
    how = "Unpause and then stop the container" if record.state == "paused" else "Stop the container"
    raise FailedPrecondition(due.format(id=record.id, state=record.state, verb=verb, how=how))
