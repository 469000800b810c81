# ruff: noqa: E501 - a row is a line
"""What each flag is seen to do: rows for test_flags_work.py.

A row of CREATE is for `create` and `run`: the flag with its value, what a shell in the container is asked, and a
pattern that is in its answer with the flag and is not without it. A question that is a template is one to `inspect`.
A row of OTHERS is the lines that are typed and what the last one answers; the pattern is in its stdout and stderr.
"""

import os
from pathlib import Path
from typing import NamedTuple

_CGROUP = "cat /sys/fs/cgroup/{0}/{1} /sys/fs/cgroup/{2}"
# Which one there is depends on the I/O schedulers that the kernel has.
_WEIGHTS = "/sys/fs/cgroup/blkio/blkio.weight /sys/fs/cgroup/blkio/blkio.bfq.weight /sys/fs/cgroup/io.bfq.weight /sys/fs/cgroup/io.weight"
_STATUS = "cat /proc/self/status"


class Row(NamedTuple):
    flags: str
    asked: str
    pattern: str
    # Files below the host's /sys/fs/cgroup of which one must be there, since the kernel does what is asked for.
    needs: tuple[str, ...] = ()


def _namespace(name: str) -> str:
    return f"{name}:.{os.stat(f'/proc/self/ns/{name}').st_ino}"


def _limit(flags: str, controller: str, old: str, new: str, pattern: str) -> Row:
    return Row(flags, _CGROUP.format(controller, old, new), pattern, (f"{controller}/{old}", f"*/{new}"))


def _disk() -> str:
    """A block device of this host, or a name that no host has."""
    found = (
        path.name
        for path in sorted(Path("/sys/block").iterdir())
        if Path("/dev", path.name).is_block_device()
    )
    return next((f"/dev/{name}" for name in found), "/dev/none")


CREATE = {
    "--add-host": Row("--add-host box:10.1.2.3", "cat /etc/hosts", r"10\.1\.2\.3\s+box"),
    "--blkio-weight": Row("--blkio-weight 300", f"cat {_WEIGHTS}", r"\b300\b"),
    "--blkio-weight-device": _limit(
        f"--blkio-weight-device {_disk()}:300", "blkio", "blkio.bfq.weight_device", "io.weight", "300"
    ),
    "--cap-add": Row("--cap-add sys_admin", _STATUS, "CapEff:\t00000000a82425fb"),
    "--cap-drop": Row("--cap-drop CHOWN", _STATUS, "CapEff:\t00000000a80425fa"),
    "--cgroup-parent": Row(
        "--cgroup-parent /pyrunc-test-flags --cgroupns host", "cat /proc/self/cgroup", ":/pyrunc-test-flags/"
    ),
    "--cgroupns": Row("--cgroupns host", "readlink /proc/self/ns/cgroup", _namespace("cgroup")),
    "--cpu-period": _limit("--cpu-period 50000", "cpu", "cpu.cfs_period_us", "cpu.max", "50000"),
    "--cpu-quota": _limit("--cpu-quota 20000", "cpu", "cpu.cfs_quota_us", "cpu.max", "20000"),
    "--cpu-rt-period": _limit("--cpu-rt-period 900000", "cpu", "cpu.rt_period_us", "none", "900000"),
    "--cpu-shares": _limit("-c 512", "cpu", "cpu.shares", "cpu.weight", r"\b(512|20)\b"),
    "--cpus": _limit("--cpus 0.25", "cpu", "cpu.cfs_quota_us", "cpu.max", r"\b25000\b"),
    "--cpuset-cpus": Row("--cpuset-cpus 0", _STATUS, "Cpus_allowed_list:\t0\n"),
    "--cpuset-mems": Row("--cpuset-mems 0", "{{.HostConfig.CpusetMems}}", "^0$"),  # with one node of memory there is no other
    "--device": Row("--device /dev/null:/dev/mine", "[ -c /dev/mine ] && echo > /dev/mine && echo fine", "fine"),
    "--device-cgroup-rule": Row(
        "--device-cgroup-rule 'c 10:229 rwm'",
        "mknod /tmp/f c 10 229 && head -c 0 /tmp/f 2>&1 | grep permitted || echo open",
        "open",
    ),
    "--device-read-bps": _limit(
        f"--device-read-bps {_disk()}:1mb", "blkio", "blkio.throttle.read_bps_device", "io.max", "1048576"
    ),
    "--device-read-iops": _limit(
        f"--device-read-iops {_disk()}:77", "blkio", "blkio.throttle.read_iops_device", "io.max", r"\b77\b"
    ),
    "--device-write-bps": _limit(
        f"--device-write-bps {_disk()}:2mb", "blkio", "blkio.throttle.write_bps_device", "io.max", "2097152"
    ),
    "--device-write-iops": _limit(
        f"--device-write-iops {_disk()}:78", "blkio", "blkio.throttle.write_iops_device", "io.max", r"\b78\b"
    ),
    "--dns": Row("--dns 10.9.8.7", "cat /etc/resolv.conf", "nameserver 10.9.8.7"),
    "--dns-option": Row("--dns-option ndots:3", "cat /etc/resolv.conf", "options ndots:3"),
    "--dns-search": Row("--dns-search team.example", "cat /etc/resolv.conf", "search team.example"),
    "--domainname": Row("--domainname team.example", "cat /proc/sys/kernel/domainname", "team.example"),
    "--entrypoint": Row("--entrypoint /bin/busybox", "{{.Path}} {{.Args}}", "^/bin/busybox .(sleep 600|true)"),  # that it runs: test_run.py
    "--env": Row("-e GREETING=hello", "echo $GREETING", "hello"),
    "--env-file": Row("--env-file variables", "echo $FROM_FILE", "a file"),
    "--expose": Row("--expose 8080", "{{json .Config.ExposedPorts}}", "8080/tcp"),
    "--group-add": Row("--group-add 77", "id -G", r"\b77\b"),
    "--hostname": Row("-h web.example", "hostname", "web.example"),
    "--interactive": Row("-i", "cat", "^y$"),
    "--ipc": Row("--ipc host", "readlink /proc/self/ns/ipc", _namespace("ipc")),
    "--label": Row("-l tier=db", "{{json .Config.Labels}}", '"tier":"db"'),
    "--label-file": Row("--label-file variables", "{{json .Config.Labels}}", '"FROM_FILE":"a file"'),
    "--log-driver": Row("--log-driver none", "{{.HostConfig.LogConfig.Type}}", "none"),
    "--log-opt": Row("--log-opt max-size=1m", "{{json .HostConfig.LogConfig.Config}}", '"max-size":"1m"'),
    "--memory": _limit("-m 32m", "memory", "memory.limit_in_bytes", "memory.max", "33554432"),
    "--memory-reservation": _limit(
        "--memory-reservation 16m", "memory", "memory.soft_limit_in_bytes", "memory.low", "16777216"
    ),
    "--memory-swap": _limit(
        "-m 32m --memory-swap 40m", "memory", "memory.memsw.limit_in_bytes", "memory.swap.max",
        r"\b(41943040|8388608)\b",
    ),
    "--memory-swappiness": _limit(
        "--memory-swappiness 11", "memory", "memory.swappiness", "none", r"\b11\b"
    ),
    "--mount": Row("--mount type=tmpfs,dst=/mine", "cat /proc/mounts", "tmpfs /mine "),
    "--name": Row("--name called", "{{.Name}}", "/called"),
    "--network": Row("--network host", "readlink /proc/self/ns/net", _namespace("net")),
    "--no-healthcheck": Row("--no-healthcheck", "{{json .Config.Healthcheck}}", "NONE"),
    "--oom-kill-disable": _limit(
        "-m 32m --oom-kill-disable", "memory", "memory.oom_control", "none", "oom_kill_disable 1"
    ),
    "--oom-score-adj": Row("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "^500"),
    "--pid": Row("--pid host", "readlink /proc/self/ns/pid", _namespace("pid")),
    "--pids-limit": Row("--pids-limit 33", _CGROUP.format("pids", "pids.max", "pids.max"), "33"),
    "--privileged": Row("--privileged", _STATUS, "CapEff:\t0000(?!0000a80425fb)"),
    "--read-only": Row("--read-only", "touch /x 2>&1", "Read-only file system"),
    "--restart": Row("--restart on-failure:2", "{{json .HostConfig.RestartPolicy}}", "on-failure.*2"),
    "--security-opt": Row("--security-opt no-new-privileges", _STATUS, "NoNewPrivs:\t1"),
    "--shm-size": Row("--shm-size 1m", "grep /dev/shm /proc/mounts", "size=1024k"),
    "--stop-signal": Row("--stop-signal USR1", "{{.Config.StopSignal}}", "USR1"),
    "--stop-timeout": Row("--stop-timeout 3", "{{.Config.StopTimeout}}", "^3$"),
    "--sysctl": Row("--sysctl kernel.msgmax=9000", "cat /proc/sys/kernel/msgmax", "9000"),
    "--tmpfs": Row("--tmpfs /mine", "cat /proc/mounts", "tmpfs /mine "),
    "--tty": Row("-t", "[ -t 1 ] && echo terminal", "terminal"),
    "--ulimit": Row("--ulimit nofile=100:200", "ulimit -Sn; ulimit -Hn", "^100\r?\n200"),
    "--user": Row("-u web", "id -u", "1000"),
    "--userns": Row("--userns host", "{{.HostConfig.UsernsMode}}", "host"),
    "--uts": Row("--uts host", "readlink /proc/self/ns/uts", _namespace("uts")),
    "--volume": Row("-v mine:/mine", "cat /proc/mounts", " /mine "),
    "--volume-driver": Row("--volume-driver local", "{{.HostConfig.VolumeDriver}}", "local"),
    "--volumes-from": Row("--volumes-from other", "cat /shared/file", "from another"),
    "--workdir": Row("-w /data", "pwd", "^/data$"),
}  # fmt: skip

_MADE = "run -d --name made beta sleep 600"
_SPOKE = "run --name made beta sh -c 'echo out; echo err >&2'"
_GREW = "run --name made beta sh -c 'echo grown > /grown'"


def _files(controller: str, old: str, new: str) -> str:
    return f"/sys/fs/cgroup/{controller}/{old} /sys/fs/cgroup/{new}"


def _updated(flags: str, template: str, value: str, files: str, pattern: str) -> tuple[list[str], str]:
    """What inspect says, and behind it what a file of the running container's cgroup, or of its process, has now."""
    lines = [
        _MADE, f"update {flags} made", f"inspect -f '{template}' made > told",
        f"exec made sh -c 'cat {files} 2>/dev/null; true' > seen", "joined told seen",
    ]  # fmt: skip
    return lines, rf"\A{value}\n(.*\n)*{pattern}"


# (command, flag): the lines, and what the last one answers.
OTHERS: dict[tuple[str, str], tuple[list[str], str]] = {
    ("exec", "--detach"): ([_MADE, "exec -d made sh -c 'echo x'"], "^$"),
    ("exec", "--env"): ([_MADE, "exec -e GREETING=hello made sh -c 'echo $GREETING'"], "hello"),
    ("exec", "--env-file"): ([_MADE, "exec --env-file variables made sh -c 'echo $FROM_FILE'"], "a file"),
    ("exec", "--interactive"): ([_MADE, "exec -i made sh -c cat < yes"], "^y$"),
    ("exec", "--privileged"): ([_MADE, "exec --privileged made sh -c 'cat /proc/self/status'"], "CapEff:\t000001ff"),
    ("exec", "--tty"): ([_MADE, "exec -t made sh -c '[ -t 1 ] && echo terminal'"], "terminal"),
    ("exec", "--user"): ([_MADE, "exec -u web made sh -c 'id -u'"], "1000"),
    ("exec", "--workdir"): ([_MADE, "exec -w /data made sh -c pwd"], "^/data$"),
    ("ps", "--all"): ([_SPOKE, "ps -a --format {{.Names}}"], "made"),
    ("ps", "--filter"): ([_MADE, "ps -f name=nobody --format {{.Names}}"], "^$"),
    ("ps", "--format"): ([_MADE, "ps --format '<{{.Names}}>'"], "<made>"),
    ("ps", "--last"): ([_SPOKE, "ps -n 1 --format {{.Names}}"], "^made$"),
    ("ps", "--latest"): ([_SPOKE, "ps -l --format {{.Names}}"], "^made$"),
    ("ps", "--no-trunc"): ([_MADE, "ps --no-trunc --format {{.ID}}"], "^[0-9a-f]{64}$"),
    ("ps", "--quiet"): ([_MADE, "ps -q"], "^[0-9a-f]{12}$"),
    ("ps", "--size"): ([_GREW, "ps -a -s"], r"6B \(virtual"),
    ("images", "--all"): (["images -a --format {{.Repository}}"], "beta"),
    ("images", "--digests"): (["images --digests"], "DIGEST"),
    ("images", "--filter"): (["images -f label=tier=nothing -q"], "^$"),
    ("images", "--format"): (["images --format '<{{.Repository}}>'"], "<beta>"),
    ("images", "--no-trunc"): (["images --no-trunc -q"], "sha256:[0-9a-f]{64}"),
    ("images", "--quiet"): (["images -q beta"], "^[0-9a-f]{12}$"),
    ("version", "--format"): (["version -f '<{{.Client.Arch}}>'"], "<(amd64|arm64)>"),
    ("info", "--format"): (["info -f '<{{.OSType}}>'"], "<linux>"),
    ("attach", "--no-stdin"): (
        ["run -d -i --name made beta sh -c 'read -t 2 x; echo got:$x'", "attach --no-stdin made < yes"], "got:$"
    ),
    ("commit", "--author"): ([_GREW, "commit -a me made grown", "inspect -f {{.Author}} grown"], "^me$"),
    ("commit", "--change"): ([_GREW, "commit -c 'CMD [\"cat\"]' made grown", "inspect -f {{.Config.Cmd}} grown"], "cat"),
    ("commit", "--message"): ([_GREW, "commit -m because made grown", "history grown"], "because"),
    ("commit", "--pause"): (
        [_MADE, "commit -p=true made grown", "events --since 1h --until 0s -f event=pause --format {{.Action}}"], "pause"
    ),
    ("cp", "--archive"): (
        ["run -d -u web --name made beta sleep 600", "cp -a yes made:/tmp/yes",
         "exec -u 0 made sh -c 'stat -c %u /tmp/yes'"], "1000",
    ),
    ("cp", "--follow-link"): ([_MADE, "cp -L made:/bin/sh - > sh.tar", "import sh.tar linked", "images linked --format {{.Size}}"], "4MB"),
    ("cp", "--quiet"): ([_MADE, "cp -q yes made:/yes", "exec made sh -c 'cat /yes'"], "y"),
    ("events", "--filter"): ([_MADE, "events --since 1h --until 0s -f event=start --format {{.Action}}"], "^(start\n)+$"),
    ("events", "--format"): ([_MADE, "events --since 1h --until 0s --format '<{{.Action}}>'"], "<start>"),
    ("events", "--since"): ([_MADE, "events --since 0s --until 0s"], "^$"),
    ("events", "--until"): ([_MADE, "events --since 2h --until 1h"], "^$"),
    ("export", "--output"): ([_GREW, "export -o grown.tar made", "import grown.tar grown"], "^sha256:"),
    ("history", "--format"): (["history --format '<{{.Size}}>' beta"], "<4"),
    ("history", "--human"): (["history -H=false --format {{.Size}} beta"], r"^\d{7}$"),
    ("history", "--no-trunc"): (["history --no-trunc --format {{.ID}} beta"], "^sha256:[0-9a-f]{64}"),
    ("history", "--platform"): (["history --platform linux/s390x beta"], "s390x"),
    ("history", "--quiet"): (["history -q beta"], "^[0-9a-f]{12}"),
    ("import", "--change"): (["import -c 'CMD [\"x\"]' root.tar grown", "inspect -f {{.Config.Cmd}} grown"], "x"),
    ("import", "--message"): (["import -m because root.tar grown", "history grown"], "because"),
    ("import", "--platform"): (["import --platform linux/s390x root.tar grown"], "s390x"),
    ("inspect", "--format"): (["inspect -f '<{{.Os}}>' beta"], "<linux>"),
    ("inspect", "--size"): ([_GREW, "inspect -s -f {{.SizeRw}} made"], "^6$"),
    ("inspect", "--type"): (["run --name beta beta true", "inspect --type container -f {{.Name}} beta", "rm beta"], "beta"),
    ("kill", "--signal"): (
        ["run -d --name made beta sh -c 'trap \"exit 7\" USR1; while :; do sleep 0.1; done'",
         "kill -s USR1 made", "wait made"], "^7$",
    ),
    ("load", "--input"): (["load -i alpha.tar"], "Loaded image: alpha:1"),
    ("load", "--platform"): (["load --platform linux/amd64 -i alpha.tar"], "Loaded image: alpha:1"),
    ("load", "--quiet"): (["load -q -i alpha.tar"], "Loaded image: alpha:1"),
    ("logs", "--details"): (
        ["run --name made beta sh -c 'echo out'", "logs --details made"], "^ out"
    ),
    ("logs", "--follow"): (["run -d --name made beta sh -c 'sleep 0.5; echo late'", "logs -f made"], "late"),
    ("logs", "--since"): ([_SPOKE, "logs --since 2100-01-01T00:00:00Z made"], "^$"),
    ("logs", "--tail"): (["run --name made beta sh -c 'echo 1; echo 2'", "logs -n 1 made"], "^2$"),
    ("logs", "--timestamps"): ([_SPOKE, "logs -t made"], r"\d{4}-\d\d-\d\dT[\d:.]+Z out"),
    ("logs", "--until"): ([_SPOKE, "logs --until 2000-01-01T00:00:00Z made"], "^$"),
    ("restart", "--signal"): (
        ["run -d --name made beta sh -c 'trap \"echo told; exit\" USR1; while :; do sleep 0.1; done'",
         "restart -s USR1 made", "logs made"], "told",
    ),
    ("restart", "--timeout"): ([_MADE, "restart -t 0 made", "ps --format {{.Names}}"], "made"),
    ("rm", "--force"): ([_MADE, "rm -f made"], "^made$"),
    ("rm", "--volumes"): (["create -v /anonymous --name made beta true", "rm -v made", "volume ls -q -f dangling=true"], "^$"),
    ("rmi", "--force"): (["load -q -i several.tar", "create --name made gamma:1 true", "rmi -f gamma:1"], "Untagged: gamma:1"),
    ("rmi", "--no-prune"): (["load -q -i several.tar", "rmi --no-prune gamma:1 gamma:2"], "Untagged: gamma:2"),
    ("save", "--format"): (["save --format oci -o saved.tar beta", "joined saved.tar"], r"^oci-layout\0(?!(.|\n)*manifest\.json)"),
    ("save", "--output"): (["save -o saved.tar beta", "load -i saved.tar"], "Loaded image: beta:latest"),
    ("save", "--platform"): (["save --platform linux/s390x -o saved.tar beta"], "s390x"),
    ("start", "--attach"): (["create --name made beta sh -c 'echo out'", "start -a made"], "^out$"),
    ("start", "--interactive"): (["create -i --name made beta sh -c cat", "start -ai made < yes"], "^y$"),
    ("stop", "--signal"): (
        ["run -d --name made beta sh -c 'trap \"exit 7\" USR1; while :; do sleep 0.1; done'",
         "stop -s USR1 made", "inspect -f {{.State.ExitCode}} made"], "^7$",
    ),
    ("stop", "--timeout"): ([_MADE, "stop -t 0 made", "inspect -f {{.State.ExitCode}} made"], "^137$"),
    ("update", "--blkio-weight"): _updated("--blkio-weight 300", "{{.HostConfig.BlkioWeight}}", "300", _WEIGHTS, r"(default )?300$"),
    ("update", "--cpu-period"): _updated("--cpu-period 50000", "{{.HostConfig.CpuPeriod}}", "50000", _files("cpu", "cpu.cfs_period_us", "cpu.max"), r"(max )?50000$"),
    ("update", "--cpu-quota"): _updated("--cpu-quota 20000", "{{.HostConfig.CpuQuota}}", "20000", _files("cpu", "cpu.cfs_quota_us", "cpu.max"), r"20000\b"),
    ("update", "--cpu-rt-period"): ([_MADE, "update --cpu-rt-period 900000 made"], "cannot be updated"),
    ("update", "--cpu-rt-runtime"): ([_MADE, "update --cpu-rt-runtime 100 made"], "cannot be updated"),
    ("update", "--cpu-shares"): _updated("-c 512", "{{.HostConfig.CpuShares}}", "512", _files("cpu", "cpu.shares", "cpu.weight"), r"(512|20)$"),
    ("update", "--cpus"): _updated("--cpus 0.25", "{{.HostConfig.NanoCpus}}", "250000000", _files("cpu", "cpu.cfs_quota_us", "cpu.max"), r"25000\b"),
    ("update", "--cpuset-cpus"): _updated("--cpuset-cpus 0", "{{.HostConfig.CpusetCpus}}", "0", "/proc/self/status", "Cpus_allowed_list:\t0$"),
    ("update", "--cpuset-mems"): _updated("--cpuset-mems 0", "{{.HostConfig.CpusetMems}}", "0", "/proc/self/status", "Mems_allowed_list:\t0$"),
    ("update", "--memory"): _updated("-m 64m --memory-swap -1", "{{.HostConfig.Memory}}", "67108864", _files("memory", "memory.limit_in_bytes", "memory.max"), "67108864$"),
    ("update", "--memory-reservation"): _updated("--memory-reservation 16m", "{{.HostConfig.MemoryReservation}}", "16777216", _files("memory", "memory.soft_limit_in_bytes", "memory.low"), "16777216$"),
    ("update", "--memory-swap"): _updated("-m 64m --memory-swap 80m", "{{.HostConfig.MemorySwap}}", "83886080", _files("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"), "(83886080|16777216)$"),
    ("update", "--pids-limit"): _updated("--pids-limit 33", "{{.HostConfig.PidsLimit}}", "33", _files("pids", "pids.max", "pids.max"), "33$"),
    ("update", "--restart"): (
        ["run -d --name made beta sh -c 'while [ ! -e /go ]; do sleep 0.05; done; echo ran; exit 3'",
         "update --restart on-failure:1 made", "exec made sh -c ': > /go'", "logs -f made"], "ran\nran",
    ),
    ("container inspect", "--format"): ([_SPOKE, "container inspect -f '<{{.Name}}>' made"], "</made>"),
    ("container inspect", "--size"): ([_GREW, "container inspect -s -f {{.SizeRw}} made"], "^6$"),
    ("container prune", "--filter"): ([_SPOKE, "container prune -f --filter label=none", "ps -aq -f name=made"], "^[0-9a-f]{12}$"),
    ("container prune", "--force"): ([_SPOKE, "container prune -f"], "Deleted Containers"),
    ("image inspect", "--format"): (["image inspect -f '<{{.Os}}>' beta"], "<linux>"),
    ("image inspect", "--platform"): (["image inspect --platform linux/s390x beta"], "s390x"),
    ("image prune", "--all"): (["load -q -i alpha.tar", "image prune -af"], "untagged: alpha:1"),
    ("image prune", "--filter"): (["load -q -i alpha.tar", "image prune -af --filter label=none", "images -q alpha"], "^[0-9a-f]{12}$"),
    ("image prune", "--force"): (["image prune -f"], "Total reclaimed space"),
    ("system check", "--quiet"): (["system check -q"], "^$"),
    ("volume create", "--driver"): (["volume create -d local held", "volume ls -f driver=local -q"], "held"),
    ("volume create", "--label"): (["volume create --label tier=db held", "volume inspect -f '{{json .Labels}}' held"], "tier"),
    ("volume create", "--name"): (["volume create --name held"], "^held$"),
    ("volume create", "--opt"): (
        ["volume create -o type=tmpfs -o device=tmpfs held", "run --rm -v held:/held beta sh -c 'cat /proc/mounts'"],
        "tmpfs /held tmpfs",
    ),
    ("volume inspect", "--format"): (["volume create held", "volume inspect -f '<{{.Name}}>' held"], "<held>"),
    ("volume ls", "--filter"): (["volume create held", "volume ls -q -f name=nothing"], "^$"),
    ("volume ls", "--format"): (["volume create held", "volume ls --format '<{{.Name}}>'"], "<held>"),
    ("volume ls", "--quiet"): (["volume create held", "volume ls -q -f name=held"], "^held$"),
    ("volume prune", "--all"): (["volume create held", "volume prune -af"], "held"),
    ("volume prune", "--filter"): (["volume create held", "volume prune -af --filter label=none", "volume ls -q"], "held"),
    ("volume prune", "--force"): (["volume prune -f"], "Total reclaimed space"),
    ("volume rm", "--force"): (["volume rm -f nothing"], "^nothing$"),
}  # fmt: skip
