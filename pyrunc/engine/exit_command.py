"""What a shim becomes when its container has ended and no owner is there: ROOT STATE GRAPH ID.

It is a script, so that it needs nothing but the interpreter's path and its own.
"""

import gc
import os
import sys


def main(root: str, state: str, graph: str, container_id: str, *, ends: bool = False) -> None:
    """Take note of the end of a container; remove it, or start it again, where that is its wish.

    This process *ends* right after it.
    """
    if not os.path.exists(os.path.join(root, "containers.db")):
        return  # with all its containers: it shall not be made anew
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    os.environ["PYRUNC_STATE"] = state
    if ends:
        from pyrunc import bundled

        bundled.begin("exit-command")
    from pyrunc.engine import finish
    from pyrunc.engine.parts import Parts

    parts = Parts(root, graph or None)
    try:
        found = finish.settle(parts, container_id)
        if found is not None and found.state == "restarting":
            from pyrunc.engine import restarting

            restarting.revive(parts, container_id)
    finally:
        if ends:
            _leave()
        else:
            parts.close()


def _leave() -> None:
    """End what a process has to end; the logs of databases are left as by a brief command: see one_command.leave."""
    from pyrunc import bundled
    from pyrunc.runtime import held, spawner
    from pyrunc.store import database

    held.end_all()
    spawner.shut_down()
    database.leave_all()
    bundled.save()


if __name__ == "__main__":
    gc.set_threshold(100_000)  # it is over before collecting would pay
    main(*sys.argv[1:], ends=True)
    os._exit(0)
