"""Mutated plans that the validator accepts, walked by a real spawner in a throw-away world."""

import errno
import json
import os
import random
import select
import struct
from collections import Counter
from typing import Any

import pytest

from pyrunc._native import plan as native
from pyrunc.runtime.compile import Rootfs, compile_spec
from pyrunc.runtime.supervised import EXITED, FAILED
from tests.fuzz import throwaway

FDS = 3
HEADER = native.HEADER_SIZE
STEP = native.STEP_SIZE
STRINGS_OFF = 48  # in the header, as the next two
STEP_COUNT = 16
NEWNS_BYTE, NEWNS_BIT = 66, 0x02  # CLONE_NEWNS in the clone flags
RECORD = struct.Struct("=IIiiiiII4Q16Q")  # channel.pxd's record
EDGES = (0, 1, 2, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a world")


def good_plans() -> list[bytes]:
    """Containers of the world, rooted in /srv, with mounts, masks and limits; the second has a user namespace."""
    spec: dict[str, Any] = {
        "hostname": "mutant",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=1777"]},
            {"destination": "/bin", "type": "bind", "source": "/bin", "options": ["rbind", "ro"]},
            {"destination": "/dev", "type": "bind", "source": "/tmp", "options": ["bind"]},  # the world has no devices
            {"destination": "/made/here", "type": "tmpfs", "source": "x", "options": ["size=64k"]},
            {"destination": "/bin", "type": "tmpfs", "source": "x", "options": ["tmpcopyup", "ro"]},
        ],
        "process": {
            "cwd": "/tmp", "noNewPrivileges": True, "user": {"uid": 3, "gid": 4, "additionalGids": [5]},
            "capabilities": {"bounding": ["CAP_CHOWN"], "effective": [], "permitted": []},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "network", "ipc", "uts", "cgroup")],
            "maskedPaths": ["/proc/kcore", "/made", "/tmp"], "readonlyPaths": ["/proc/sys"],
        },
    }  # fmt: skip
    plans = []
    for extra in ((), ({"type": "user"},)):
        linux = {**spec["linux"], "namespaces": [*spec["linux"]["namespaces"], *extra]}
        if extra:
            linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 100}]
        template = compile_spec({**spec, "linux": linux}, Rootfs(("/srv",)))
        plan = template.finish("ab" * 32, ["program"], ["A=b"], [throwaway.PROGRAM], native.FLAG_QUIET)
        plans.append(bytes(plan))
    return plans


def mutant(draw: random.Random, good: bytes) -> bytes:
    """A plan that the validator accepts and that differs from *good* in its steps, its tables or its text."""
    (count,) = struct.unpack_from("=I", good, STEP_COUNT)
    strings, size = struct.unpack_from("=II", good, STRINGS_OFF)
    while True:
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            step = HEADER + STEP * draw.randrange(count)
            kind = draw.randrange(8)
            if kind == 0:
                data[step + draw.randrange(STEP)] ^= 1 << draw.randrange(8)
            elif kind == 1:
                struct.pack_into("=I", data, step + 4 * draw.randrange(STEP // 4), draw.choice(EDGES))
            elif kind == 2:
                struct.pack_into("=H", data, step, draw.randrange(len(native.STEP_NAMES)))
            elif kind == 3:
                struct.pack_into("=I", data, step + draw.choice((8, 12, 16)), draw.randrange(size))
            elif kind == 4:
                struct.pack_into("=I", data, step + draw.choice((24, 28)), draw.randrange(24))
            elif kind == 5:
                other = HEADER + STEP * draw.randrange(count)
                data[step : step + STEP], data[other : other + STEP] = (
                    data[other : other + STEP],
                    data[step : step + STEP],
                )
            elif kind == 6:
                data[strings + draw.randrange(size)] = draw.choice(b"/.\0\xffx0")
            else:
                data[draw.randrange(12, HEADER)] ^= 1 << draw.randrange(8)
        # Without a mount namespace of its own a plan mounts over the world's: that is what it says.
        data[NEWNS_BYTE] |= NEWNS_BIT
        plan = bytes(data)
        if plan != good and native.validate(plan, FDS) == 0:
            return plan


def changes(good: bytes, plan: bytes) -> list[str]:
    """What differs, for whoever has to find out why."""
    found = []
    for at in range(0, len(good), 4):
        old, new = (struct.unpack_from("=I", data, at)[0] for data in (good, plan) if at + 4 <= len(good))
        if old != new:
            step, field = divmod(at - HEADER, STEP)
            op = struct.unpack_from("=H", plan, at - field)[0] if step >= 0 else 0
            found.append(
                f"{at}: step {step} ({native.STEP_NAMES[op % len(native.STEP_NAMES)]}) +{field}: {old:#x} -> {new:#x}"
            )
    return found


def fate(world: throwaway.Spawner, plan: bytes, stdio: list[int]) -> tuple[str, int]:
    """How a request ended: "exited" with a wait status, "failed" with an errno, or "lost"."""
    reply = world.request(plan, stdio)
    try:
        while select.select([reply], [], [], 30)[0]:
            record = reply.recv(RECORD.size)
            if len(record) != RECORD.size:
                return "lost", 0
            kind, _, error, _, status, *_ = RECORD.unpack(record)
            if kind == EXITED:
                return "exited", status
            if kind == FAILED:
                return "failed", -error
        return "stuck", 0
    finally:
        reply.close()


def heal() -> None:
    """Undo what X-mount.owner and X-mount.mode do to the world's directories, in plans that say so."""
    for directory in ("", "/srv"):
        for path in (f"{directory}/", f"{directory}/bin", f"{directory}{throwaway.PROGRAM}"):
            os.chown(path, 0, 0)
            os.chmod(path, 0o755)


def walk(seed: int, mutants: int) -> bytes:
    """Send mutants, and a good plan after every tenth; returns a report as JSON."""
    draw = random.Random(seed)
    world = throwaway.Spawner()
    stdio = [os.open("/tmp", os.O_RDONLY) for _ in range(FDS)]
    good = good_plans()
    fates: Counter[str] = Counter()
    healthy = [fate(world, plan, stdio) for plan in good]
    strange = []
    for number in range(mutants):
        original = good[number % len(good)]
        plan = mutant(draw, original)
        how, _ = fate(world, plan, stdio)
        fates[how] += 1
        if how in ("lost", "stuck"):
            strange.append([how, *changes(original, plan)])
        heal()
        if number % 10 == 9:
            healthy.append(fate(world, draw.choice(good), stdio))
    alive = os.waitpid(world.pid, os.WNOHANG) == (0, 0)
    return json.dumps({"fates": fates, "healthy": healthy, "strange": strange, "alive": alive}).encode()


def check(report: bytes) -> Counter[str]:
    """The spawner lives, each request got its answer, and what is good ran throughout."""
    found = json.loads(report)
    assert found["alive"]
    assert found["strange"] == []
    assert set(map(tuple, found["healthy"])) == {("exited", throwaway.PROGRAM_STATUS << 8)}
    return Counter(found["fates"])


def test_a_bad_plan_costs_one_refused_request_and_never_the_spawner() -> None:
    fates = check(throwaway.call(lambda: walk(1, 600)))
    assert min(fates["failed"], fates["exited"]) > 100


@pytest.mark.soak
def test_a_hundred_thousand_bad_plans() -> None:
    total: Counter[str] = Counter()
    for seed in range(2, 22):
        total += check(throwaway.call(lambda seed=seed: walk(seed, 5000)))  # type: ignore[misc]
    print(dict(total))


def test_the_host_is_out_of_reach() -> None:
    """What a plan might try first, tried by the world's root itself."""

    def attempts() -> bytes:
        found: dict[str, int | None] = {}
        for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches", "/proc/1/root/etc/passwd"):
            try:
                os.close(os.open(path, os.O_WRONLY))
                found[path] = 0
            except OSError as error:
                found[path] = error.errno
        try:
            os.mknod("/null", 0o20666, os.makedev(1, 3))
            found["mknod"] = 0
        except OSError as error:
            found["mknod"] = error.errno
        found["roots"] = len(os.listdir("/"))
        return json.dumps(found).encode()

    assert json.loads(throwaway.call(attempts)) == {
        "/proc/sys/kernel/core_pattern": errno.EACCES, "/proc/sys/vm/drop_caches": errno.EACCES,
        "/proc/1/root/etc/passwd": errno.ENOENT, "mknod": errno.EPERM, "roots": 5,
    }  # fmt: skip
