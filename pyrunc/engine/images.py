"""The images of an engine: what goes in and out, what they are called, and what there is to know about them."""

import os

from pyrunc.api import HistoryEntry, Image, ImageDetails, Loaded, Progress, Pruned, Removed
from pyrunc.engine import image_events
from pyrunc.engine.argument_checks import check_path, check_text, check_texts, pairs
from pyrunc.engine.deadlines import NEVER, Deadline
from pyrunc.errors import FileNotThere, InvalidArgument, NotFound, PyruncError
from pyrunc.image import reference as references
from pyrunc.runtime.option_checks import refuse
from pyrunc.spec import image as documents

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, BinaryIO, Literal

    from pyrunc.api import OnProgress
    from pyrunc.engine.parts import Parts
    from pyrunc.store.leases import Lease
    from pyrunc.store.metadata import ImageRow

    Listed = list[Image]
    Steps = list[Removed]
    Loads = list[Loaded]
    Entries = list[HistoryEntry]

SHIPPED = "hello"


class _Refused:
    """Leaves nothing on the disk of what is refused in its block, in which every lease on it has ended."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts

    def __enter__(self) -> None:
        """Nothing is begun."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        if kind is not None:
            try:
                self._parts.collect()
            except (PyruncError, OSError):
                pass  # the error that counts is the first; a later collection takes it


class Images:
    """The images that the engine of *parts* has."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts

    # --- in and out

    def load(
        self,
        source: "BinaryIO | str | os.PathLike[str]",
        *,
        platform: str = "",
        progress: "OnProgress | None" = None,
    ) -> "Loads":
        """Take the images of an archive: docker-archive or OCI layout, file, directory or stream, compressed or not.

        *platform* (``os/architecture``) chooses from an image for several; "" is this machine's.
        Raises InvalidSpec, DataLoss, Unsupported, StorageFull; NotFound for a file that is not there, or OSError for
        one that cannot be read; InvalidArgument.
        """
        from pyrunc.image.archive import load

        wanted, told = _platform(platform), _told(progress, "load")
        known = {row.id for row in self._parts.metadata.images()}
        with _Refused(self._parts), self._parts.metadata.lease() as lease:
            if isinstance(source, str | os.PathLike) and os.path.isdir(source):
                found = load.load_directory(
                    os.fspath(source), self._parts.images, progress=told, platform=wanted
                )
            else:
                with _opened(source) as stream:
                    found = load.load(stream, self._parts.images, progress=told, platform=wanted)
            for each in found:
                before = [(name.canonical, image_id) for name, image_id in each.replaced]
                self._accept(each.row, before, known, lease, progress)
                image_events.say(self._parts, each.row.id, "load")
        return [Loaded(each.row.id, tuple(name.familiar for name in each.references)) for each in found]

    def _accept(
        self, row: "ImageRow", before: "Iterable[tuple[str, str]]", known: "Collection[str]", lease: "Lease",
        progress: "OnProgress | None",
    ) -> None:  # fmt: skip
        """Unpack an image; one whose layers are no good is taken back.

        *before* are the ids that its references had, *known* the images that there were.
        """
        try:
            self.unpack(row, lease, progress=progress)
        except BaseException:
            for name, image_id in before:
                self._parts.metadata.set_reference(name, image_id)
            if row.id not in known:
                self._parts.metadata.delete_image(row.id)
            raise

    def save(
        self,
        names: "Sequence[str]",
        sink: "Callable[[Any], object]",
        *,
        layout: "Literal['docker', 'oci']" = "docker",
        progress: "OnProgress | None" = None,
    ) -> None:
        """Write images as one archive; *sink* takes bytes. Raises NotFound, in Docker's words, and DataLoss."""
        from pyrunc.image.archive import save

        check_texts("names", names)
        told = _told(progress, "save")
        save.save(self._parts.images, names, sink, format=layout, progress=told)
        image_events.saved(self._parts, names)

    def import_(
        self, source: "BinaryIO | str | os.PathLike[str]", name: str = "", *, changes: "Sequence[str]" = (),
        message: str = "", progress: "OnProgress | None" = None,
    ) -> str:  # fmt: skip
        """Make an image of one layer of a tar of a root directory; its id.

        *changes* are instructions of a Dockerfile. Raises InvalidArgument, InvalidSpec, StorageFull.
        """
        from pyrunc.image.archive import import_

        check_texts("changes", changes)
        check_text("message", message)
        wanted = references.parse(name).tagged() if name else None
        known = {row.id for row in self._parts.metadata.images()}
        old = self._parts.metadata.resolve(wanted.canonical) if wanted else None
        before = [(wanted.canonical, old)] if wanted and old else []
        told = None if progress is None else lambda done: progress(Progress("import", "", done, 0))
        with _Refused(self._parts), self._parts.metadata.lease() as lease, _opened(source) as stream:
            row = import_.import_(
                stream, self._parts.images, reference=wanted, changes=changes, message=message, progress=told
            )
            self._accept(row, before, known, lease, progress)
        if wanted:
            image_events.say(self._parts, row.id, "tag", wanted.familiar)
        image_events.say(self._parts, row.id, "import")
        return row.id

    def bootstrap(
        self, suite: str, name: str = "", *, mirror: str | None = None, variant: str = "minbase",
        progress: "Callable[[str], object] | None" = None,
    ) -> str:  # fmt: skip
        """Make a base image of one layer from the host's package mirror; its id, the same for the same packages.

        *suite* is ``debian:bookworm`` or the like, and what the image is called, unless *name* says otherwise.
        *progress* gets a line for each step. Raises what pyrunc.image.bootstrap raises.
        """
        from pyrunc.image import bootstrap

        wanted = references.parse(name or suite).tagged()
        made = bootstrap.bootstrap(suite, mirror=mirror, variant=variant, progress=progress)
        created = documents.timestamp(made.created_ns)
        step = {
            "created": created,
            "created_by": f"pyrunc: {made.distribution} {made.suite} from {made.mirror}",
        }
        platform = documents.host_platform()
        document = {
            "architecture": platform.architecture, "os": platform.os, "created": created, "config": {"Cmd": ["bash"]},
            "rootfs": {"type": "layers", "diff_ids": [made.layer.digest]}, "history": [step],
        }  # fmt: skip
        with made.stream, self._parts.metadata.lease() as lease:
            with self._parts.content.ingest(made.layer.digest, made.layer.size, lease=lease) as writer:
                while chunk := made.stream.read(1 << 20):
                    writer.write(chunk)
                blob = writer.commit()
            layer = documents.Descriptor(documents.layer_type("plain"), blob.digest, blob.size)
            row = self._parts.images.add(
                documents.encode(document), [layer], references=[wanted], lease=lease
            )
            self.unpack(row, lease)
        image_events.say(self._parts, row.id, "tag", wanted.familiar)
        image_events.say(self._parts, row.id, "import")
        return row.id

    def shipped(self, name: str) -> "ImageRow":
        """Load the image that ships with pyrunc, when it is first asked for. Raises NotFound for another name."""
        from pyrunc.image import layout

        if references.parse(name).tagged().familiar != f"{SHIPPED}:latest":
            raise NotFound(f"No such image: {references.parse(name).tagged().familiar}")
        (loaded,) = self.load(layout.shipped(SHIPPED))
        self._parts.metadata.set_reference(references.parse(SHIPPED).tagged().canonical, loaded.id)
        return self._parts.images.get(SHIPPED)

    def unpack(
        self,
        row: "ImageRow",
        lease: "Lease",
        deadline: Deadline = NEVER,
        progress: "OnProgress | None" = None,
    ) -> str | None:
        """See that an image's layers are unpacked; the snapshot of all of them together, None without layers.

        Raises NotFound for one that was removed meanwhile, TimedOut.
        """
        manifest = self._parts.images.manifest(row)
        diff_ids = documents.diff_ids(self._parts.images.config(row))
        chain_ids = self._parts.metadata.chain_ids(row.id)
        if len(chain_ids) != len(diff_ids):
            raise NotFound(f"No such image: {row.id}")  # not one without layers
        return self._parts.unpacker.ensure(manifest.layers, diff_ids, chain_ids, lease, deadline, progress)

    # --- names

    def tag(self, source: str, target: str) -> None:
        """Call the image *source* *target* too, whatever was called so before. Raises NotFound, InvalidArgument."""
        wanted = references.parse(target)
        if wanted.digest:
            raise InvalidArgument("refusing to create a tag with a digest reference")
        image_id = self.get(source).id
        self._parts.metadata.set_reference(wanted.tagged().canonical, image_id)
        image_events.say(self._parts, image_id, "tag", wanted.tagged().familiar)

    def remove(self, name: str, *, force: bool = False, prune: bool = True) -> "Steps":
        """Remove a name of an image, and the image with its last one, by Docker's rules.

        *force* removes an image that stopped containers use, or that has several names; *prune* its untagged
        parents too. Raises NotFound, and FailedPrecondition in Docker's words.
        """
        from pyrunc.engine import image_removal

        self._parts.come_to_rest()
        return image_removal.remove(self._parts, name, force, prune)

    def prune(self, *, everything: bool = False, filters: "Iterable[tuple[str, str]]" = ()) -> Pruned:
        """Remove images without a name, or *everything* that no container uses.

        *filters* are ("until", time), ("label", "key[=value]"), ("label!", …), ("dangling", "true").
        Raises InvalidArgument for another one.
        """
        from pyrunc.engine import image_removal

        self._parts.come_to_rest()
        return image_removal.prune(self._parts, everything, filters)

    # --- knowledge

    def get(self, name: str) -> Image:
        """The image of that name, id, or beginning of an id. Raises NotFound, InvalidArgument in Docker's words."""
        row = self._parts.images.get(name)
        return self._summary(row, *self._all_names(), self._sizes([row]))

    def list(self, *, everything: bool = False, filters: "Iterable[tuple[str, str]]" = ()) -> "Listed":
        """The images, the latest first; *everything* has those too that are only parents of others.

        *filters* are ("dangling", "true"), ("label", …), ("before", image), ("since", image), ("reference", pattern),
        ("until", time); with a reference an image has only the names that match. Raises InvalidArgument, NotFound.
        """
        from pyrunc.engine import image_filters

        rows = self._parts.metadata.images()
        names, digests = self._all_names()
        sizes = self._sizes(rows)
        found = [self._summary(row, names, digests, sizes) for row in rows]
        return image_filters.select(found, pairs(filters), everything, self.get)

    def inspect(self, name: str) -> ImageDetails:
        """All that is known of an image. Raises NotFound, InvalidArgument."""
        row = self._parts.images.get(name)
        config = self._parts.images.config(row)
        summary = self._summary(row, *self._all_names(), self._sizes([row]))
        driver = self._parts.snapshotter.name
        return ImageDetails(summary, config, documents.diff_ids(config), driver, row.added_ns)

    def history(self, name: str) -> "Entries":
        """How an image came to be, the latest step first. Raises NotFound, InvalidArgument."""
        row = self._parts.images.get(name)
        config = self._parts.images.config(row)
        names, _ = self._all_names()
        chain_ids = self._parts.metadata.chain_ids(row.id)
        sizes = self._parts.sizes.get(chain_ids)
        left = iter(chain_ids)
        found = []
        for step in config.get("history") or ():
            size = 0 if step.get("empty_layer") else sizes.get(next(left, ""), 0)
            made = documents.nanoseconds(step["created"], "history.created") if step.get("created") else 0
            found.append(
                HistoryEntry("", made, step.get("created_by") or "", size, step.get("comment") or "")
            )
        found.reverse()
        image: ImageRow | None = row
        for number, entry in enumerate(found):
            if image is None:
                break
            found[number] = entry._replace(id=image.id, references=tuple(names.get(image.id, ())))
            image = self._parts.metadata.get_image(image.parent) if image.parent else None
        return found

    # --- what these have in common

    def _all_names(self) -> "tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]]":
        names: dict[str, list[str]] = {}
        for name, image_id in self._parts.metadata.references():
            names.setdefault(image_id, []).append(references.parse(name).familiar)
        digests: dict[str, list[str]] = {}
        for name, image_id in self._parts.metadata.digests():
            digests.setdefault(image_id, []).append(references.parse(name).familiar)
        return names, digests

    def _sizes(self, rows: "Sequence[ImageRow]") -> "Mapping[str, int]":
        """The size of each image: of all content that its layers have."""
        chains = {row.id: self._parts.metadata.chain_ids(row.id) for row in rows}
        known = self._parts.sizes.get(chain_id for chain_ids in chains.values() for chain_id in chain_ids)
        found = {}
        for row in rows:
            sizes = [known.get(chain_id) for chain_id in chains[row.id]]
            found[row.id] = sum(size for size in sizes if size is not None) if None not in sizes else row.size
        return found

    def _summary(
        self, row: "ImageRow", names: "Mapping[str, Sequence[str]]", digests: "Mapping[str, Sequence[str]]",
        sizes: "Mapping[str, int]",
    ) -> Image:  # fmt: skip
        labels = (self._parts.images.config(row).get("config") or {}).get("Labels") or {}
        return Image(
            row.id, tuple(sorted(names.get(row.id, ()))), tuple(sorted(digests.get(row.id, ()))), row.parent or "",
            row.created_ns, sizes[row.id], row.os, row.architecture, labels,
        )  # fmt: skip


def _opened(source: "BinaryIO | str | os.PathLike[str]") -> "Any":
    """A context with the stream of *source*. Raises NotFound for a file that is not there, InvalidArgument."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        check_path("source", path)
        try:
            return open(path, "rb")
        except FileNotFoundError as exc:
            raise FileNotThere(f"open {path}: no such file or directory", path) from exc
        except UnicodeEncodeError as exc:
            raise refuse("source", "a path", path) from exc
    if not callable(getattr(source, "read", None)):
        raise refuse("source", "a path, or what can be read from", source)
    from contextlib import nullcontext

    return nullcontext(source)


def _told(progress: "OnProgress | None", step: str) -> "Callable[[str, int, int], None] | None":
    """What an archive tells its progress to: a file's name, the bytes done of it, its size."""
    if progress is None:
        return None
    report = progress
    return lambda item, done, total: report(Progress(step, item, done, total))


def _platform(text: str) -> "documents.Platform | None":
    """Raises InvalidArgument."""
    check_text("platform", text or "")
    if not text:
        return None
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidArgument(f"platform {text!r} must be os/architecture, such as linux/amd64")
    return documents.Platform(*parts)
