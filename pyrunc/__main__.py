"""``python -m pyrunc`` is the command ``pyrunc``."""

import gc
import sys

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import NoReturn

# Of what is allocated a command keeps nearly all, and most are over before collecting any of it would pay.
_ENOUGH = 100_000
# The verbs whose modules are kept in a file each, see pyrunc.bundled.
_OFTEN = ("create", "exec", "inspect", "kill", "logs", "ps", "rm", "run", "start", "stop", "wait")


def program() -> "NoReturn":
    """Run the command line of this process, and end it."""
    gc.set_threshold(_ENOUGH)
    verb = next((word for word in sys.argv[1:] if word in _OFTEN), None)
    if verb is not None:
        from pyrunc import bundled

        bundled.begin(f"cli-{verb}")
    from pyrunc.cli import main

    main.program()


if __name__ == "__main__":
    program()
