"""``python -m pyrunc`` is the command ``pyrunc``."""

import gc

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from typing import NoReturn

# Of what is allocated a command keeps nearly all, and most are over before collecting any of it would pay.
_ENOUGH = 100_000


def program() -> "NoReturn":
    """Run the command line of this process, and end it."""
    gc.set_threshold(_ENOUGH)
    from pyrunc.cli import main

    main.program()


if __name__ == "__main__":
    program()
