"""``python -m pyrunc`` is the command ``pyrunc``."""

from pyrunc.cli.main import program

if __name__ == "__main__":
    program()
