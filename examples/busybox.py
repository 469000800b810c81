"""What the examples run in unless they are given a root directory: a static busybox, for as long as they last."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def rootfs() -> Iterator[Path]:
    """The root directory that the command line names, or a new one; busybox(1), `--list`, says what is in it."""
    if len(sys.argv) > 1:
        yield Path(sys.argv[1])
        return
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("busybox is missing: apt-get install busybox-static, or name a root directory")
    with TemporaryDirectory(prefix="pyrunc-example-") as name:
        root = Path(name)
        for directory in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            (root / directory).mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        for applet in subprocess.check_output([busybox, "--list"], text=True).split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        yield root
