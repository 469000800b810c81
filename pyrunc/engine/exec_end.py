"""What the shim of a further program becomes at its end, if nobody waits for it: ROOT CONTAINER EXEC PLACE.

It is a script, as exit_command is, and tells of the end. PLACE is the shim's, which goes with the container's own.
"""

import os
import sys

_KILLED = 137


def main(root: str, container_id: str, exec_id: str, place: str, *, ends: bool = False) -> None:
    """Write the event; this process *ends* right after it."""
    if not os.path.exists(os.path.join(root, "containers.db")):
        return
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from pyrunc.engine import container_events
    from pyrunc.engine.parts import Parts
    from pyrunc.runtime import shim_state
    from pyrunc.store import database

    status = shim_state.status(place)
    parts = Parts(root, None)
    try:
        row = parts.containers.by_id(container_id)
        if row is not None:  # else it went with its container, whose events tell of that
            # Without a status its container has ended, and its place is gone.
            code = _KILLED if status is None else status.exit_code
            container_events.say(parts, row.record, "exec_die", execID=exec_id, exitCode=code)
    finally:
        if ends:
            database.leave_all()
        else:
            parts.close()


if __name__ == "__main__":
    main(*sys.argv[1:], ends=True)
    os._exit(0)
