"""What containers mount, as Docker's Binds, Mounts, Tmpfs, VolumesFrom and Volumes say: seen from inside."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyrunc import Engine
from pyrunc.engine import mount_specs
from pyrunc.errors import FailedPrecondition, InvalidArgument, NotFound, PyruncError, Unsupported
from pyrunc.runtime.options import Mount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
_CHECKOUT = str(Path(__file__).parents[2])


class Made:
    """Containers that only have what they mount; programs run with that."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.parts = engine._parts

    def container(
        self, name: str, host_config: dict[str, Any] | None = None, volumes: tuple[str, ...] = (),
        image: str = "beta",
    ) -> str:  # fmt: skip
        self.engine.run(image, ["true"], name=name, remove=False)
        found = self.engine.containers.get(name).record().id
        mount_specs.prepare(self.parts, found, {"Volumes": {path: {} for path in volumes}}, host_config or {})
        return found

    def mounts(self, container: str, host_config: dict[str, Any] | None = None) -> list[Mount]:
        return mount_specs.mounts(self.parts, container, host_config or {})

    def run(self, container: str, script: str, **options: Any) -> str:
        done = self.engine.run(
            "beta", ["busybox", "sh", "-c", script], mounts=self.mounts(container), **options
        )
        return done.stdout.decode() + done.stderr.decode()

    def once(self, script: str, volumes: tuple[str, ...] = (), **host_config: Any) -> str:
        """A container that goes with its end."""
        name = f"once{os.urandom(4).hex()}"
        container = self.container(name, host_config, volumes)
        try:
            return self.run(container, script)
        finally:
            mount_specs.release(self.parts, container, anonymous=True)
            self.engine.containers.get(name).remove()


@pytest.fixture
def made(loaded: Engine) -> Made:
    return Made(loaded)


def test_an_empty_volume_begins_with_what_the_image_has_and_stays_as_it_is_then(made: Made) -> None:
    """Contents, owners, modes, times, links and attributes; of the directory itself too."""
    script = (
        "mkdir -p /data/sub; echo x > /data/sub/file; busybox ln /data/sub/file /data/hard;"
        "busybox ln -s ../seed /data/sub/link; busybox mkfifo /data/fifo; busybox chown -R 7:8 /data/sub;"
        "busybox chmod 2750 /data; busybox chmod 4711 /data/hard"
    )
    made.engine.run("beta", ["sh", "-c", script], name="maker", remove=False)
    made.engine.containers.get("maker").commit("filled")
    container = made.container("one", {"Binds": ["vol:/data"]}, image="filled")
    listing = "cd /data && busybox find . | busybox sort | busybox xargs busybox stat -c '%n %F %a %u:%g %Y'"
    inside = made.engine.run("filled", ["busybox", "sh", "-c", listing]).stdout.decode()
    assert "./hard regular file 4711 7:8" in inside and "./fifo fifo" in inside
    assert made.run(container, listing) == inside
    assert made.run(container, "busybox stat -c %h /data/hard") == "2\n"
    made.run(container, "busybox rm /data/seed")
    assert "seed" not in made.once("busybox ls /data", Binds=["vol:/data"])


def test_attributes_are_copied(made: Made, tmp_path: Path) -> None:
    made.container("one", {"Binds": ["vol:/data"]})
    (tmp_path / "tree/data").mkdir(parents=True)
    (tmp_path / "tree/data/program").write_text("x")
    os.setxattr(tmp_path / "tree/data/program", "user.word", b"value")
    os.setxattr(tmp_path / "tree/data", "user.of", b"directory")
    from pyrunc.engine.volume_fill import fill

    volume = made.engine.volumes.create("other")
    tree = os.open(tmp_path / "tree", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fill(made.parts, "other", tree, "/data", alone=True)
    finally:
        os.close(tree)
    assert os.getxattr(f"{volume.mountpoint}/program", "user.word") == b"value"
    assert os.getxattr(volume.mountpoint, "user.of") == b"directory"


def test_a_volume_is_filled_in_place_while_another_container_has_it(made: Made) -> None:
    first = made.container("first", {"Binds": ["vol:/nowhere"]})
    assert made.run(first, "busybox ls -a /nowhere").split() == [".", ".."]
    before = os.stat(made.engine.volumes.get("vol").mountpoint).st_ino
    made.container("second", {"Binds": ["vol:/data"]})
    assert os.stat(made.engine.volumes.get("vol").mountpoint).st_ino == before
    assert made.run(first, "busybox ls /nowhere") == "seed\n"


def test_a_copy_that_was_killed_leaves_an_empty_volume(made: Made) -> None:
    volume = made.engine.volumes.create("vol")
    left = Path(volume.mountpoint).parent / ".fill-left"
    (left / "data").mkdir(parents=True)
    (left / "data/half").write_text("x")
    assert made.once("busybox ls /data", Binds=["vol:/data"]) == "seed\n"
    assert os.listdir(left.parent) == ["_data"]


def test_words_of_binds_mean_what_they_say(made: Made, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("host\n")
    source = str(tmp_path / "shown")
    assert made.once("busybox cat /v/file; echo x > /v/new", Binds=[f"{source}:/v"]) == "host\n"
    assert (tmp_path / "shown/new").exists()
    for mode in ("ro", "ro,z", "Z,ro,cached"):
        assert "Read-only file system" in made.once("echo x > /v/no", Binds=[f"{source}:/v:{mode}"])
    assert "Read-only" in made.once("echo x > /v/no", Binds=["vol:/v:ro"])
    assert made.once("busybox ls /data", Binds=["plain:/data:nocopy"]) == ""
    assert made.once("busybox cat /f", Binds=[f"{source}/file:/f"]) == "host\n"
    missing = tmp_path / "made/for/it"
    assert made.once("busybox ls /v", Binds=[f"{missing}:/v"]) == ""
    assert missing.is_dir()
    with pytest.raises(InvalidArgument, match=r"bind source path does not exist: .*/absent$"):
        made.container(
            "absent", {"Mounts": [{"Type": "bind", "Source": f"{tmp_path}/absent", "Target": "/v"}]}
        )


def test_a_read_only_bind_is_so_below_too_unless_it_is_told_otherwise(made: Made, tmp_path: Path) -> None:
    """Mounts below the source, in a mount namespace where nobody else sees them."""
    script = """
import json, os, sys
from pyrunc import Engine
from pyrunc._native import mount, namespaces
from pyrunc.engine import mount_specs
namespaces.unshare(namespaces.CLONE_NEWNS)
mount.mount(None, b"/", flags=mount.MS_REC | mount.MS_PRIVATE)
place, root = sys.argv[1:3]
os.makedirs(place + "/below")
mount.mount(b"tmpfs", os.fsencode(place), b"tmpfs")
os.mkdir(place + "/below")
mount.mount(b"tmpfs", os.fsencode(place + "/below"), b"tmpfs")
engine = Engine(root, graph=sys.argv[3])
answers = {}
words = {"plain": {}, "writable": {"ReadOnlyNonRecursive": True}, "disabled": {"NonRecursive": True}}
for name, options in words.items():
    engine.run("beta", ["true"], name=name, remove=False)
    container = engine.containers.get(name).record().id
    host = {"Mounts": [{"Type": "bind", "Source": place, "Target": "/v", "ReadOnly": True, "BindOptions": options}]}
    mounts = mount_specs.resolve(engine._parts, container, {}, host)
    script = "echo > /v/a; echo > /v/below/b; busybox grep -c /v /proc/self/mountinfo"
    done = engine.run("beta", ["busybox", "sh", "-c", script], mounts=mounts)
    answers[name] = [done.stderr.decode().count("Read-only"), int(done.stdout)]
print(json.dumps(answers))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "place", made.parts.root, made.parts.snapshotter.name],
        env={**os.environ, "PYTHONPATH": _CHECKOUT}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"plain": [2, 2], "writable": [1, 2], "disabled": [2, 1]}


def test_propagation_is_checked_against_the_source_and_works(made: Made, tmp_path: Path) -> None:
    script = """
import os, sys, time
from pyrunc import Engine
from pyrunc._native import mount, namespaces
from pyrunc.engine import mount_specs
from pyrunc.errors import FailedPrecondition
namespaces.unshare(namespaces.CLONE_NEWNS)
mount.mount(None, b"/", flags=mount.MS_REC | mount.MS_PRIVATE)
place, root = sys.argv[1:3]
for name in ("private", "shared"):
    os.makedirs(f"{place}/{name}")
    mount.mount(b"tmpfs", os.fsencode(f"{place}/{name}"), b"tmpfs")
    os.mkdir(f"{place}/{name}/below")
mount.mount(None, os.fsencode(place + "/shared"), flags=mount.MS_SHARED)
engine = Engine(root, graph=sys.argv[3])
engine.run("beta", ["true"], name="one", remove=False)
container = engine.containers.get("one").record().id
def mounts(spec):
    mount_specs.release(engine._parts, container, anonymous=True)
    return mount_specs.resolve(engine._parts, container, {}, {"Binds": [spec]})
for mode, words in (("shared", "it is not a shared mount"), ("rslave", "it is not a shared or slave mount")):
    try:
        mounts(f"{place}/private:/v:{mode}")
    except FailedPrecondition as exc:
        assert str(exc) == f"path {place}/private is mounted on {place}/private but {words}", exc
    else:
        raise SystemExit("not refused")
program = "echo > /v/up; until [ -e /v/go ]; do busybox usleep 10000; done; busybox ls /v/below > /v/seen"
for mode, seen in (("rslave", True), ("rprivate", False), ("", False)):
    host = {"Binds": [f"{place}/shared:/v:{mode}" if mode else f"{place}/shared:/v"]}
    with engine.start("beta", ["busybox", "sh", "-c", program], host_config=host) as process:
        while not os.path.exists(place + "/shared/up"):
            time.sleep(0.01)
        mount.mount(b"tmpfs", os.fsencode(place + "/shared/below"), b"tmpfs")
        open(place + "/shared/below/later", "x").close()
        open(place + "/shared/go", "x").close()
        assert process.wait(timeout_s=60) == 0
    with open(place + "/shared/seen") as file:
        assert (file.read().strip() == "later") is seen, mode
    for name in ("up", "go", "seen"):
        os.unlink(f"{place}/shared/{name}")
    mount.umount2(os.fsencode(place + "/shared/below"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "place", made.parts.root, made.parts.snapshotter.name],
        env={**os.environ, "PYTHONPATH": _CHECKOUT}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_tmpfs_has_its_options(made: Made) -> None:
    mount = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700}}
    assert made.once("busybox stat -c %a /t; busybox df -k /t | busybox tail -n 1", Mounts=[mount]).split()[
        :3
    ] == ["700", "tmpfs", "1024"]
    assert made.once("busybox stat -c %a /t", Mounts=[{"Type": "tmpfs", "Target": "/t"}]) == "1777\n"
    assert "Read-only" in made.once(
        "echo > /t/x", Mounts=[{"Type": "tmpfs", "Target": "/t", "ReadOnly": True}]
    )


def test_the_options_of_a_volume_say_what_it_is(made: Made, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    made.engine.volumes.create("tmp", options={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=700"})
    made.engine.volumes.create(
        "bound", options={"type": "none", "device": str(tmp_path / "elsewhere"), "o": "bind"}
    )
    made.engine.volumes.create("lost", options={"type": "none", "device": "/absent/dir", "o": "bind"})
    assert made.once("busybox stat -c %a /v; busybox stat -f -c %T /v", Binds=["tmp:/v"]) == "700\ntmpfs\n"
    assert made.once("busybox ls /data", Binds=["bound:/data"]) == "seed\n"
    assert os.listdir(tmp_path / "elsewhere") == ["seed"]
    assert "Read-only" in made.once("echo > /v/x", Binds=["bound:/v:ro"])
    assert "Read-only" in made.once("echo > /v/x", Binds=["tmp:/v:ro"])
    with pytest.raises(FailedPrecondition, match="failed to mount local volume: mount /absent/dir"):
        made.once("true", Binds=["lost:/v"])
    made.engine.volumes.remove("bound")
    assert os.listdir(tmp_path / "elsewhere") == ["seed"]


def test_the_later_word_about_a_place_wins(made: Made) -> None:
    source = made.container("source", {"Binds": ["data:/d", "named:/n"]}, volumes=("/a", "/d"))
    assert [mount.target for mount in made.mounts(source)] == ["/d", "/n", "/a"]
    made.run(source, "echo a > /a/f; echo n > /n/f")
    taken = made.container("taken", {"VolumesFrom": ["source"], "Binds": ["other:/n"]}, volumes=("/a", "/z"))
    assert made.run(taken, "busybox cat /a/f; busybox ls /n") == "a\n"
    assert len(made.mounts(taken)) == 4
    readonly = made.container("readonly", {"VolumesFrom": ["source:ro"]})
    assert "Read-only" in made.run(readonly, "echo > /a/x")
    last = made.container("last", {"VolumesFrom": ["source", "readonly"]})
    assert "Read-only" in made.run(last, "echo > /a/x")
    still = made.container("still", {"VolumesFrom": ["readonly:rw"]})
    assert "Read-only" in made.run(still, "echo > /a/x")
    covered = made.container("covered", {"VolumesFrom": ["source"], "Tmpfs": {"/a": ""}})
    assert "/a" not in [mount.target for mount in made.mounts(covered, {"Tmpfs": {"/a": ""}})]


def test_what_was_decided_outlives_who_it_was_taken_from(made: Made) -> None:
    source = made.container("source", {}, volumes=("/a",))
    made.run(source, "echo a > /a/f")
    taken = made.container("taken", {"VolumesFrom": ["source"]})
    nothing = made.container("nothing", {})
    bare = made.container("bare", {"VolumesFrom": ["nothing"]})
    for name in ("source", "nothing"):
        mount_specs.release(made.parts, made.engine.containers.get(name).record().id, anonymous=True)
        made.engine.containers.get(name).remove()
    assert made.run(taken, "busybox cat /a/f") == "a\n"
    assert mount_specs.resolve(made.parts, bare, {}, {"VolumesFrom": ["nothing"]}) == []
    assert mount_specs.release(made.parts, taken, anonymous=True) != []
    del nothing


@pytest.mark.parametrize(
    ("host_config", "words"),
    [
        ({"Binds": ["a:/v", "b:/v/"]}, "Duplicate mount point: /v"),
        ({"Binds": ["aa:/v"], "Tmpfs": {"/v": ""}}, "Duplicate mount point: /v"),
        ({"Binds": ["/etc:/v:nocopy"]}, "field VolumeOptions must not be specified"),
        ({"Binds": ["aa:/v:rshared"]}, "field BindOptions must not be specified"),
        ({"Binds": ["aa:/v:ro,rw"]}, "invalid mode: ro,rw"),
        ({"Binds": ["/v"]}, "invalid volume specification: '/v'"),
        ({"Binds": ["/etc:rw"]}, "invalid volume specification: '/etc:rw'"),
        ({"Binds": ["a:/v"]}, "volume name is too short"),
        ({"Binds": ["../a:/v"]}, "includes invalid characters for a local volume name"),
        ({"Binds": ["aa:/"]}, "destination can't be '/'"),
        ({"Binds": ["aa:/x/.."]}, "destination can't be '/'"),
        ({"Binds": ["aa:v"]}, "mount path must be absolute"),
        ({"Mounts": [{"Type": "volume", "Target": "/v", "ReadOnly": True}]}, "when using anonymous volumes"),
        ({"Mounts": [{"Type": "volume", "Source": "aa", "Target": "/v", "VolumeOptions": {"Subpath": "../x"}}]},
         "subpath must be a relative path within the volume"),
        ({"Mounts": [{"Type": "npipe", "Source": "aa", "Target": "/v"}]}, "mount type unknown"),
        ({"Tmpfs": {"/v": "size=1m,wrong"}}, r'invalid tmpfs option \["wrong"\]'),
        ({"Tmpfs": {"v": ""}}, "invalid mount path: 'v' mount path must be absolute"),
        ({"VolumesFrom": [""]}, "volumes-from specification cannot be an empty string"),
        ({"VolumesFrom": ["absent"]}, "No such container: absent"),
        ({"VolumesFrom": ["container:shared"]}, "invalid mode: shared"),
        ({"Binds": ["aa:/v"], "VolumeDriver": "other"}, 'plugin "other" not found'),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said_and_makes_nothing(
    made: Made, host_config: dict[str, Any], words: str
) -> None:
    with pytest.raises((InvalidArgument, NotFound), match=words):
        made.container("one", host_config)
    assert made.engine.volumes.list() == []


def test_a_volume_over_a_file_is_refused_as_docker_does(made: Made) -> None:
    with pytest.raises(FailedPrecondition, match="source /bin/sh is not directory"):
        made.container("one", {"Binds": ["vol:/bin/sh"]})


def test_inspect_shows_what_is_mounted(made: Made) -> None:
    container = made.container(
        "one",
        {"Binds": ["data:/d", "ro:/r:ro", "/etc:/e:ro,z"],
         "Mounts": [{"Type": "tmpfs", "Target": "/t"}, {"Type": "bind", "Source": "/etc", "Target": "/b"}]},
        volumes=("/a",),
    )  # fmt: skip
    shown = mount_specs.mount_points_of(made.parts, container)
    keys = ("Type", "Destination", "Mode", "RW", "Propagation")
    assert [tuple(point[key] for key in keys) for point in shown] == [
        ("volume", "/d", "z", True, ""), ("volume", "/r", "ro", False, ""), ("bind", "/e", "ro,z", False, "rprivate"),
        ("tmpfs", "/t", "", True, ""), ("bind", "/b", "", True, "rprivate"), ("volume", "/a", "", True, ""),
    ]  # fmt: skip
    assert shown[0]["Name"] == "data" and shown[0]["Driver"] == "local"
    assert shown[0]["Source"] == made.engine.volumes.get("data").mountpoint
    assert shown[2]["Source"] == "/etc" and "Name" not in shown[2]


class TestSubpath:
    """A directory of a volume, whose links the programs in it have made."""

    def mounted(self, made: Made, subpath: str) -> str:
        options = {"Subpath": subpath}
        mount = {"Type": "volume", "Source": "vol", "Target": "/v", "VolumeOptions": options}
        return made.once("busybox cat /v/file; echo x > /v/new", Mounts=[mount])

    def test_it_is_shown(self, made: Made) -> None:
        inside = Path(made.engine.volumes.create("vol").mountpoint)
        (inside / "a/b").mkdir(parents=True)
        (inside / "a/b/file").write_text("here\n")
        (inside / "link").symlink_to("a")
        assert self.mounted(made, "a/b") == "here\n"
        assert self.mounted(made, "link/b") == "here\n"
        assert (inside / "a/b/new").exists()

    def test_what_is_not_there_is_said(self, made: Made) -> None:
        inside = Path(made.engine.volumes.create("vol").mountpoint)
        (inside / "file").write_text("x")
        with pytest.raises(FailedPrecondition, match=r"cannot access path .*/_data/absent: no such file"):
            self.mounted(made, "absent")
        with pytest.raises(Unsupported, match="a single file of a volume"):
            self.mounted(made, "file")

    @pytest.mark.parametrize("target", ["/etc", "../../../../../../../../etc", "../.."])
    def test_a_link_that_leads_outside_shows_nothing_of_the_host(self, made: Made, target: str) -> None:
        inside = Path(made.engine.volumes.create("vol").mountpoint)
        (inside / "link").symlink_to(target)
        with pytest.raises(FailedPrecondition, match="cannot access path"):
            self.mounted(made, "link")

    def test_a_link_that_comes_between_look_and_mount_leads_nowhere(self, made: Made, tmp_path: Path) -> None:
        """The race: what was looked at is exchanged before the start; the mount itself stays inside of the volume."""
        inside = Path(made.engine.volumes.create("vol").mountpoint)
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "file").write_text("secret\n")
        (inside / "a").mkdir()
        options = {"Subpath": "a"}
        mount = {"Type": "volume", "Source": "vol", "Target": "/v", "VolumeOptions": options}
        container = made.container("one", {"Mounts": [mount]})
        mounts = made.mounts(container)
        (inside / "a").rename(inside / "b")
        (inside / "a").symlink_to(secret)
        command = ["busybox", "cat", "/v/file"]
        with pytest.raises(PyruncError):
            made.engine.run("beta", command, mounts=mounts)
        # What a path would have shown.
        careless = [Mount("/v", f"{inside}/a", "bind", ("rbind",))]
        assert made.engine.run("beta", command, mounts=careless).stdout == b"secret\n"


def test_a_link_of_the_image_does_not_lead_a_copy_to_the_host(made: Made, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret\n")
    made.engine.run("beta", ["busybox", "ln", "-s", str(secret), "/place"], name="maker", remove=False)
    made.engine.containers.get("maker").commit("linked")
    container = made.container("two", {"Binds": ["vol:/place"]}, image="linked")
    assert os.listdir(made.engine.volumes.get("vol").mountpoint) == []
    with made.parts.snapshotter.mounted(container) as tree:
        careless = os.listdir(f"/proc/self/fd/{tree}/place")  # a path, which the link leads out of the tree
    assert careless == ["file"]


def test_two_containers_do_not_share_a_tmpfs_that_neither_would_see(made: Made) -> None:
    made.engine.volumes.create("tmp", options={"type": "tmpfs", "device": "tmpfs"})
    with made.engine.start("beta", ["sleep", "60"], name="first") as process:
        first = process.id
        mount_specs.prepare(made.parts, first, {}, {"Binds": ["tmp:/v"]})
        second = made.container("second", {"Binds": ["tmp:/v"]})
        with pytest.raises(Unsupported, match="is a tmpfs, which one running container can have"):
            made.mounts(second)
        process.kill()
        process.wait()
    assert made.run(second, "busybox stat -f -c %T /v") == "tmpfs\n"
