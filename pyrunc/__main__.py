"""``python -m pyrunc`` is the command ``pyrunc``."""

import sys

from pyrunc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
