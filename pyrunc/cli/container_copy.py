"""`pyrunc cp`: files between a container, running or not, and the host."""

import os
import sys
import threading
from collections.abc import Callable
from typing import IO

from pyrunc._native import openat2
from pyrunc.cli import local_paths, units
from pyrunc.cli.flags import Flag
from pyrunc.cli.local_paths import Place
from pyrunc.cli.session import CommandError, engine
from pyrunc.cli.verb import verb
from pyrunc.engine import archive_extract, archive_write
from pyrunc.engine.container import Container
from pyrunc.engine.copy import PathStat
from pyrunc.errors import PyruncError

Sink = Callable[[bytes], object]
_BENEATH = openat2.RESOLVE_BENEATH | openat2.RESOLVE_NO_MAGICLINKS


@verb(
    "cp CONTAINER:SRC_PATH DEST_PATH|-\ncp SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files/folders between a container and the local filesystem",
    Flag("-a --archive", "", "Archive mode (copy all uid/gid information)"),
    Flag("-L --follow-link", "", "Always follow symbol link in SRC_PATH"),
    Flag("-q --quiet", "", "Suppress progress output during copy"),
    low=2, high=2,
)  # fmt: skip
def cp(archive: bool, follow_link: bool, quiet: bool, arguments: list[str]) -> None:
    """Copy in the one direction or the other; "-" is a tar."""
    for text, what in zip(arguments, ("source", "destination"), strict=True):
        if not text:
            raise CommandError(f"{what} can not be empty")
    (begin, begin_path), (end, end_path) = map(_split, arguments)
    if begin and end:
        raise CommandError("copying between containers is not supported")
    if begin:
        count, target = _Count(), end_path
        _from_container(_container(begin), begin_path, end_path, follow_link, count)
    elif end:
        count, target = _Count(), arguments[1]
        _to_container(begin_path, end, end_path, follow_link, archive, count)
    else:
        raise CommandError("must specify at least one container source")
    if not quiet and target != "-" and sys.stdout.isatty():
        sys.stderr.write(f"Successfully copied {units.size(count.bytes, 3)} to {target}\n")


def _split(text: str) -> tuple[str, str]:
    """The container, "" for the host, and the path."""
    container, colon, path = text.partition(":")
    if text.startswith(("/", ".")) or not colon:
        return "", text
    return container, path


class _Count:
    """How many bytes of archives have passed."""

    def __init__(self) -> None:
        self.bytes = 0

    def through(self, sink: Sink) -> Sink:
        def write(data: bytes) -> None:
            self.bytes += len(data)
            sink(data)

        return write


def _container(name: str) -> Container:
    """The container, by the name that errors call it by."""
    found = engine().containers.get(name)
    found.name = name
    return found


def _from_container(container: Container, path: str, target: str, follow: bool, count: _Count) -> None:
    if target != "-":
        target = local_paths.absolute(target)
        local_paths.check_output(target)
    rebase = ""
    if follow:
        found = _stat(container, path)
        if found is not None and found.is_symlink:
            path, rebase = local_paths.rebased(path, found.link_target)

    def produce(sink: Sink) -> None:
        container.get_archive(path, count.through(sink))

    if target == "-":
        sys.stdout.flush()
        produce(sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    begin = Place(path, True, container.stat_path(path).is_directory, rebase)
    directory, rename = local_paths.prepared(begin, local_paths.destination(target))
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:

        def open_directory(below: str, flags: int) -> int:
            return openat2.openat2(top, os.fsencode(below), flags, resolve=_BENEATH)

        extractor = archive_extract.Extractor(open_directory, directory, set_owner=False, rename=rename)
        _connected(produce, extractor.extract)
    except archive_extract.Refused as exc:
        raise CommandError(str(exc)) from exc
    finally:
        os.close(top)


def _to_container(path: str, name: str, target: str, follow: bool, copy_owner: bool, count: _Count) -> None:
    begin = None if path == "-" else local_paths.source(local_paths.absolute(path), follow)
    container = _container(name)
    end = Place(target)
    found = _stat(container, target)
    if found is not None and found.is_symlink:
        end = Place(found.link_target)
        found = _stat(container, found.link_target)
    if found is not None:
        end = end._replace(exists=True, is_directory=found.is_directory)
    if begin is None:
        if not end.is_directory:
            raise CommandError(f'destination "{name}:{target}" must be a directory')
        container.put_archive(end.path, sys.stdin.buffer, copy_owner=copy_owner)
        return
    directory, rename = local_paths.prepared(begin, end)
    above, leaf = local_paths.split(begin.path)
    parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _connected(
            lambda sink: archive_write.write(parent, leaf, leaf, count.through(sink)),
            lambda source: container.put_archive(directory, source, copy_owner=copy_owner, rename=rename),
        )
    finally:
        os.close(parent)


def _stat(container: Container, path: str) -> PathStat | None:
    """What is at a path of a container; None where that cannot be known, which the copy itself then says."""
    try:
        return container.stat_path(path)
    except PyruncError:
        return None


def _connected(produce: Callable[[Sink], None], consume: Callable[[IO[bytes]], None]) -> None:
    """Let *consume* read what *produce* writes; what goes wrong first is raised."""
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            with open(writing, "wb", buffering=0) as file:

                def write(data: bytes) -> None:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) or 0 :]

                produce(write)
        except BrokenPipeError:
            pass  # the other side says why
        except BaseException as exc:  # noqa: BLE001 - it is raised where the copy was asked for
            failure.append(exc)

    thread = threading.Thread(target=run, name="pyrunc-cp", daemon=True)
    thread.start()
    try:
        with open(reading, "rb") as file:
            try:
                consume(file)
                while file.read(1 << 16):
                    pass  # what follows the end of an archive
            except PyruncError:
                file.close()
                thread.join()
                if failure:
                    raise failure[0] from None
                raise
    finally:
        thread.join()
    if failure:
        raise failure[0]
