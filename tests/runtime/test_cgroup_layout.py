"""detect() on hand-written mountinfo files: what is joined, through which mount, and what is left alone."""

from pathlib import Path

import pytest

from pyrunc.runtime.cgroup_layout import Hierarchy, Layout, detect, parse_layout

SYSTEMD_HYBRID = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
24 22 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 - cgroup cgroup rw,cpu,cpuacct
37 30 0:33 / /sys/fs/cgroup/net_cls,net_prio rw,nosuid shared:17 - cgroup cgroup rw,net_cls,net_prio
38 30 0:34 / /sys/fs/cgroup/memory rw,nosuid shared:18 - cgroup cgroup rw,memory
39 30 0:35 / /sys/fs/cgroup/cpuset rw,nosuid shared:19 - cgroup cgroup rw,cpuset,clone_children
"""

V1 = "".join(line for line in SYSTEMD_HYBRID.splitlines(True) if "cgroup2" not in line)

V2 = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
24 22 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
"""

# A Docker container on cgroup v1 without a cgroup namespace: bind mounts of the container's own cgroups.
NESTED_V1 = """\
900 800 0:60 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
905 900 0:70 / /sys ro,nosuid - sysfs sysfs ro
906 905 0:71 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
907 906 0:28 /docker/4f1 /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,xattr,name=systemd
908 906 0:32 /docker/4f1 /sys/fs/cgroup/cpu,cpuacct rw,nosuid master:16 - cgroup cgroup rw,cpu,cpuacct
909 906 0:34 /docker/4f1 /sys/fs/cgroup/memory rw,nosuid master:18 - cgroup cgroup rw,memory
"""

# Read from inside a new cgroup namespace, a mount that was made outside has a root above ours.
NESTED_V2 = """\
900 800 0:60 / / rw,relatime - overlay overlay rw
905 900 0:70 / /sys ro,nosuid - sysfs sysfs ro
906 905 0:26 /../.. /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate
"""


def no_controllers(_mountpoint: str) -> str:
    return ""


def mountpoints(layout: Layout) -> list[str]:
    return [hierarchy.mountpoint for hierarchy in layout.hierarchies]


def test_systemd_hybrid_has_co_mounted_controllers_and_an_empty_v2() -> None:
    layout = parse_layout(SYSTEMD_HYBRID, no_controllers)
    assert layout.mode == "hybrid"
    assert layout.hierarchies == (
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "/", 1, ("cpu", "cpuacct")),
        Hierarchy("/sys/fs/cgroup/net_cls,net_prio", "/", 1, ("net_cls", "net_prio")),
        Hierarchy("/sys/fs/cgroup/memory", "/", 1, ("memory",)),
        Hierarchy("/sys/fs/cgroup/cpuset", "/", 1, ("cpuset",)),
        Hierarchy("/sys/fs/cgroup/unified", "/", 2, ()),
    )
    assert layout.named == (Hierarchy("/sys/fs/cgroup/systemd", "/", 1, (), "systemd"),)
    assert layout.v2 is layout.hierarchies[-1]
    assert layout.of("cpuacct") is layout.of("cpu") is layout.hierarchies[0]
    assert layout.of("pids") is None
    assert layout.of("pids", "memory", "cpu") is layout.hierarchies[2]


def test_v1_has_no_v2() -> None:
    layout = parse_layout(V1, no_controllers)
    assert layout.mode == "v1"
    assert layout.v2 is None


def test_v2_takes_its_controllers_from_the_mount_point() -> None:
    asked = []

    def controllers(mountpoint: str) -> str:
        asked.append(mountpoint)
        return "cpuset cpu io memory pids\n"

    layout = parse_layout(V2, controllers)
    assert layout == Layout(
        "v2", (Hierarchy("/sys/fs/cgroup", "/", 2, ("cpuset", "cpu", "io", "memory", "pids")),)
    )
    assert asked == ["/sys/fs/cgroup"]


def test_v2_with_a_named_v1_hierarchy_is_v2() -> None:
    named = "40 30 0:40 / /run/cg/systemd rw - cgroup cgroup rw,none,name=systemd\n"
    layout = parse_layout(V2 + named, no_controllers)
    assert layout.mode == "v2"
    assert [hierarchy.name for hierarchy in layout.named] == ["systemd"]


def test_a_host_without_cgroups_has_none() -> None:
    assert parse_layout("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n") == Layout("none", ())


def test_container_without_cgroup_namespace_uses_its_bind_mounts() -> None:
    layout = parse_layout(NESTED_V1, no_controllers)
    assert layout.mode == "v1"
    assert [(hierarchy.mountpoint, hierarchy.root) for hierarchy in layout.hierarchies] == [
        ("/sys/fs/cgroup/cpu,cpuacct", "/docker/4f1"),
        ("/sys/fs/cgroup/memory", "/docker/4f1"),
    ]


def test_mount_from_outside_the_cgroup_namespace() -> None:
    layout = parse_layout(NESTED_V2, no_controllers)
    assert layout.mode == "v2"
    assert layout.hierarchies[0].root == "/../.."


@pytest.mark.parametrize(
    "other",
    [
        "70 22 0:34 / /srv/cg rw - cgroup cgroup rw,memory\n",  # mounted a second time, elsewhere
        "70 22 0:34 /docker/4f1 /sys/fs/cgroup/mem2 rw - cgroup cgroup rw,memory\n",  # a part of it
        "70 30 0:34 / /sys/fs/cgroup/mem2 ro - cgroup cgroup rw,memory\n",  # read-only
    ],
    ids=["twice", "bind", "read-only"],
)
@pytest.mark.parametrize("first", [False, True])
def test_duplicates_of_a_hierarchy_are_joined_once_through_the_best(other: str, first: bool) -> None:
    head, tail = SYSTEMD_HYBRID.splitlines(True)[:3], SYSTEMD_HYBRID.splitlines(True)[3:]
    text = "".join([*head, other, *tail] if first else [*head, *tail, other])
    layout = parse_layout(text, no_controllers)
    assert sorted(mountpoints(layout)) == sorted(mountpoints(parse_layout(SYSTEMD_HYBRID, no_controllers)))


def test_the_second_mount_is_used_where_the_first_is_covered() -> None:
    text = SYSTEMD_HYBRID + (
        "70 22 0:34 / /srv/cg rw - cgroup cgroup rw,memory\n"
        "71 38 0:80 / /sys/fs/cgroup/memory rw - tmpfs none rw\n"
    )
    memory = parse_layout(text, no_controllers).of("memory")
    assert memory is not None
    assert memory.mountpoint == "/srv/cg"


@pytest.mark.parametrize(
    "cover",
    [
        "80 30 0:81 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n",  # on top of the tmpfs
        "80 24 0:81 / /sys/fs rw - tmpfs tmpfs rw\n",  # on a directory above it
        "80 22 0:81 / / rw - tmpfs tmpfs rw\n",  # on the root itself
    ],
)
def test_covered_hierarchies_are_not_seen(cover: str) -> None:
    assert parse_layout(SYSTEMD_HYBRID + cover, no_controllers).mode == "none"


def test_a_mount_beside_does_not_cover() -> None:
    text = SYSTEMD_HYBRID + "80 24 0:81 / /sys/fs/cgroup2 rw - tmpfs tmpfs rw\n"
    assert parse_layout(text, no_controllers).mode == "hybrid"


def test_escaped_mount_points_and_optional_fields() -> None:
    text = (
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 22 0:26 / /a\\040b\\134c\\303\\244 rw shared:9 master:3 propagate_from:2 - cgroup2 none rw\n"
    )
    assert mountpoints(parse_layout(text, no_controllers)) == ["/a b\\cä"]


def test_detect_reads_a_file_once(tmp_path: Path) -> None:
    file = tmp_path / "mountinfo"
    file.write_text(V1)
    first = detect(str(file))
    file.write_text("")
    assert detect(str(file)) is first
    detect.cache_clear()
    assert detect(str(file)).mode == "none"
    detect.cache_clear()


def test_detect_agrees_with_this_host() -> None:
    """The kernel's own list: /proc/self/cgroup has one line for each mounted hierarchy."""
    layout = detect()
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    v1 = {controllers for number, controllers, _ in lines if number != "0" and "name=" not in controllers}
    found = {frozenset(hierarchy.controllers) for hierarchy in layout.hierarchies if hierarchy.version == 1}
    # A hierarchy may exist and not be mounted where we see it, but never the other way round.
    assert found <= {frozenset(controllers.split(",")) for controllers in v1}
    for hierarchy in layout.hierarchies:
        assert (Path(hierarchy.mountpoint) / "cgroup.procs").exists()
