"""What this process alone may hold: a forked child would keep containers, or their input, open.

A container is ended by the end of its requester's socket, and a program's input by the end of
our pipe, so neither may have a second holder. A forked child lets go of what it inherited; this
process ends its containers before it waits, at its end, for the supervisors.
"""

from __future__ import annotations

import os
from _thread import RLock
from _weakref import ref


class Holder:
    """What has descriptors that are this process's alone."""

    def let_go(self) -> None:
        """Close them."""
        raise NotImplementedError

    def end(self) -> None:
        """End what depends on them; a thread that waits for one of them would keep a closed one open."""
        self.let_go()


# Held while descriptors are made and noted, so that a fork in another thread comes before or
# after both. Reentrant: a signal handler may fork in between.
lock = RLock()
_held: dict[int, ref[Holder]] = {}


def note(holder: Holder) -> None:
    """Remember *holder* until `forget`; call it with `lock` held since its descriptors were made."""
    _held[id(holder)] = ref(holder)


def forget(holder: Holder) -> None:
    """*holder* holds nothing any more."""
    _held.pop(id(holder), None)


def end_all() -> None:
    """End what is held, at the end of this process."""
    for reference in list(_held.values()):
        holder = reference()
        if holder is not None:
            holder.end()


def let_go_of_all() -> None:
    """Close what is held, in a forked child."""
    while _held:
        _, reference = _held.popitem()
        holder = reference()
        if holder is not None:
            holder.let_go()


def _in_child() -> None:
    lock.release()
    let_go_of_all()


os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=_in_child)
