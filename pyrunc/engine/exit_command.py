"""What a shim becomes when its container has ended and no owner is there: ROOT STATE GRAPH ID.

It is a script, so that it needs nothing but the interpreter's path and its own.
"""

import os
import sys


def main(root: str, state: str, graph: str, container_id: str) -> None:
    """Take note of the end of a container; remove it, or start it again, where that is its wish."""
    if not os.path.exists(os.path.join(root, "containers.db")):
        return  # with all its containers: it shall not be made anew
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    os.environ["PYRUNC_STATE"] = state
    from pyrunc.engine import finish
    from pyrunc.engine.parts import Parts

    parts = Parts(root, graph or None)
    try:
        found = finish.settle(parts, container_id)
        if found is not None and found.state == "restarting":
            from pyrunc.engine import restarting

            restarting.revive(parts, container_id)
    finally:
        parts.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
