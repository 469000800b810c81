"""Where pyrunc-oci answers otherwise than runc 1.1.5, and why."""

from typing import Any

# A flag that runc 1.1 shows, and those that newer ones show beside it.
NEWER = (
    ("--no-new-keyring", ("--pidfd-socket value",)),
    ("--additional-gids value, -g value", ("--pidfd-socket value",)),
    ("--blkio-weight value", ("--cpu-burst value", "--cpu-idle value")),
    ("--page-server value", ("--tcp-skip-in-flight", "--link-remap")),
    ("--lsm-profile value", ("--link-remap",)),
)


def _says(message: str) -> dict[str, Any]:
    return {"stderr": f'time="{{time}}" level=error msg="{message}"\n'}


_BYTES = "(current usage: {bytes}, peak usage: {bytes})"
_FILE = "write /sys/fs/cgroup/cpuset/{cgroup}/b/cpuset.cpus"
DIFFERENCES: dict[tuple[str, str], dict[str, Any]] = {
    # Go's words for what is no document; ours name the field.
    ("update", "update -r - b < 'x'"): _says("resources: Expecting value: line 1 column 1 (char 0)"),
    ("update", "update -r - b < '[]'"): _says("resources: must be an object"),
    ("update", """update -r - b < '{"cpu":{"shares":"x"}}'"""): _says(
        "linux.resources.cpu.shares: must be an integer of 0..18446744073709551615, not 'x'"
    ),
    # runc warns that it could not put back what it had not changed; what we have changed is put back.
    ("update", "update --cpuset-cpus 99 b"): _says(
        f'failed to write \\"99\\": {_FILE}: numerical result out of range'
    ),
    ("update", "update --memory 4096 b"): _says(f"unable to set memory limit to 4096 {_BYTES}"),
    # Refused before anything is written.
    ("update", "update --cpuset-cpus x b"): _says(
        "linux.resources.cpu.cpus: must be a list as 0-2,7, not 'x'"
    ),
    ("update", "update --cpu-quota 10 b"): _says(
        "linux.resources.cpu.quota: must be at least 1000 µs, not 10"
    ),
    # runc tries to delete the container whose checkpoint has failed.
    ("criu", "--criu {work}/criu checkpoint box"): _says(
        "CRIU version check failed: fork/exec {work}/criu: no such file or directory"
    ),
    ("criu", "checkpoint --empty-ns bogus box"): _says('namespace \\"bogus\\" is not supported'),
    # The whole path, and what is wrong with which field.
    ("run", "run -b none x"): _says("{runtime} run failed: chdir {work}/none: no such file or directory"),
    ("run", "run -b bad x"): _says(
        "{runtime} run failed: config.json: expecting value: line 1 column 16 (char 15)"
    ),
    ("run", "run -b empty x"): _says("{runtime} run failed: root.path: root must be specified"),
    ("run", "run -b cwd x"): _says(
        "{runtime} run failed: process.cwd: Cwd must be an absolute path, not 'bin'"
    ),
}
