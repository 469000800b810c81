"""Progress bars on stderr, if that is a terminal; nothing is imported to draw them otherwise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyrunc.cli.session import harmless

if TYPE_CHECKING:
    from pyrunc.api import OnProgress, Progress


@contextmanager
def bars(wanted: bool) -> "Iterator[OnProgress | None]":
    """Yield what the engine tells its progress to, or None where nobody would see it."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Display

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Display(*columns, console=Console(stderr=True), transient=True) as display:
        tasks: dict[tuple[str, str], object] = {}

        def tell(step: "Progress") -> None:
            key = (step.step, step.item)
            if key not in tasks:
                name = step.item.removeprefix("blobs/sha256/").removeprefix("sha256:")[:12]
                tasks[key] = display.add_task(harmless(f"{step.step} {name}").rstrip())
            display.update(tasks[key], completed=step.done, total=step.total or None)  # type: ignore[arg-type]

        yield tell
