"""Where the front door becomes Python."""

import os


def main(front_door: str, arguments: list[str]) -> int:
    """Serve one command line, given without its program's name; its exit code."""
    if arguments == ["--version"]:
        os.write(1, b"pyrunc-oci\n")
        return 0
    os.write(2, f"{front_door}: {' '.join(arguments)}: not implemented\n".encode())
    return 1
