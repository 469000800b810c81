"""The plan of a program that stays on the host, with a container's root mounted where only it sees that."""

from __future__ import annotations

from pyrunc.records import NamedTuple
from pyrunc.runtime.compile import Compiler
from pyrunc.runtime.compile_host import id_map
from pyrunc.runtime.overlay_options import option_pairs, writable
from pyrunc.runtime.plan import HOST, INIT

TYPE_CHECKING = False  # see pyrunc.records
if TYPE_CHECKING:
    from pyrunc.runtime.compile_host import Rootfs, Spec
    from pyrunc.runtime.plan import PlanTemplate

_MANY = 128  # layers that one page of options has room for, whatever their paths


class Beside(NamedTuple):
    """A container's root, *rootfs*, at the directory *place* of the host's, as the document *spec* would show it."""

    rootfs: Rootfs
    place: str
    spec: Spec


def compile_beside(spec: Spec, root: Rootfs, beside: Beside | None) -> PlanTemplate:
    """Compile *spec* with the root *root*, and *beside* in its mount namespace. Raises what compile_spec does."""
    return _Beside(spec, root, beside).compile()


class _Beside(Compiler):
    def __init__(self, spec: Spec, root: Rootfs, beside: Beside | None) -> None:
        super().__init__(spec, root, {})
        self._beside = beside

    def _mounts(self) -> None:
        super()._mounts()
        if self._beside is None:
            return
        own = self.root, self.rootfs, self.id_maps
        linux = self._beside.spec.get("linux") or {}
        self.rootfs, self.root = self._beside.rootfs, self.plan.slot()
        uid, gid = (id_map(linux.get(key), f"linux.{key}") for key in ("uidMappings", "gidMappings"))
        self.id_maps = (uid, gid)
        if not uid:
            self.rootfs = self.rootfs._replace(idmap=False)
        layers = self.rootfs.layers
        if self.rootfs.upper and not self.rootfs.idmap and len(layers) > _MANY:
            more = writable(self.rootfs.upper, self.rootfs.work, volatile=self.rootfs.volatile, layer=True)
            self._new_mount("overlay", self.root, option_pairs(layers, more), 0, "host")
        elif self.rootfs.upper:
            self._overlay_of_host()
        else:
            self.plan.add("open_tree", HOST, "host", a=self.root, s0=layers[0])
            if self.rootfs.idmap:
                self._idmap(self.root, layers[0], self.id_maps, False)
        self.plan.add("attach", INIT, "mounts", a=self.root, s0=self._beside.place)
        self.root, self.rootfs, self.id_maps = own
