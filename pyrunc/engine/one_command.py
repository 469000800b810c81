"""An engine in a process that does one thing with it, and ends: what a further call would profit from is left out."""

from pyrunc.store import database

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.engine.engine import Engine


def begin(engine: "Engine") -> None:
    """Let *engine* keep nothing ready, and no thread: this process waits itself for what it starts."""
    engine._brief = True  # noqa: SLF001 - an engine for all has no such switch
    engine._owners.watches = False  # noqa: SLF001


def leave(engine: "Engine") -> None:
    """Let go of *engine* right before this process ends: as its `close`, but leave databases with short logs alone.

    What was written is as safe: whoever opens them next reads the log.
    """
    engine._owners.close()  # noqa: SLF001
    for made in (engine._made_throwaway, engine._made_bases):  # noqa: SLF001
        if made is not None:
            made.close()
    database.leave_all()


def image_names(engine: "Engine") -> "dict[str, set[str]]":
    """What each image is called, by its id, in Docker's short form, without all that else is known of images."""
    from pyrunc.image import reference as references

    found: dict[str, set[str]] = {}
    for name, image_id in engine._parts.metadata.references():  # noqa: SLF001
        found.setdefault(image_id, set()).add(references.parse(name).familiar)
    return found
