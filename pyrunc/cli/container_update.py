"""`pyrunc update`: limits and restart policies of containers."""

from collections.abc import Mapping
from typing import Any

from pyrunc.cli import flag_values as values
from pyrunc.cli.context import running
from pyrunc.cli.create_documents import restart_policy
from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, each, engine, say
from pyrunc.cli.verb import verb
from pyrunc.errors import InvalidArgument

FLAGS = (
    Flag("--blkio-weight", "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to disable"),
    Flag("--cpu-period", "int", "Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag("--cpu-quota", "int", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag("--cpu-rt-period", "int", "Limit the CPU real-time period in microseconds"),
    Flag("--cpu-rt-runtime", "int", "Limit the CPU real-time runtime in microseconds"),
    Flag("-c --cpu-shares", "int", "CPU shares (relative weight)"),
    Flag("--cpus", "decimal", "Number of CPUs", reader=values.nano_cpus),
    Flag("--cpuset-cpus", "string", "CPUs in which to allow execution (0-3, 0,1)"),
    Flag("--cpuset-mems", "string", "MEMs in which to allow execution (0-3, 0,1)"),
    Flag("--kernel-memory", "bytes", refused="Linux has no limit of kernel memory since 6.1"),
    Flag("-m --memory", "bytes", "Memory limit", reader=values.size),
    Flag("--memory-reservation", "bytes", "Memory soft limit", reader=values.size),
    Flag("--memory-swap", "bytes", "Swap limit equal to memory plus swap: -1 to enable unlimited swap"),
    Flag("--pids-limit", "int", "Tune container pids limit (set -1 for unlimited)"),
    Flag("--restart", "string", "Restart policy to apply when a container exits"),
)
_KEYS = {
    "blkio_weight": "BlkioWeight", "cpu_period": "CpuPeriod", "cpu_quota": "CpuQuota",
    "cpu_rt_period": "CpuRealtimePeriod", "cpu_rt_runtime": "CpuRealtimeRuntime", "cpu_shares": "CpuShares",
    "cpus": "NanoCpus", "cpuset_cpus": "CpusetCpus", "cpuset_mems": "CpusetMems", "memory": "Memory",
    "memory_reservation": "MemoryReservation", "memory_swap": "MemorySwap", "pids_limit": "PidsLimit",
}  # fmt: skip


def changes(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What of HostConfig the flags change. Raises InvalidArgument in the client's words."""
    found = {key: flags[name] for name, key in _KEYS.items() if flags[name]}
    if flags["restart"]:
        found["RestartPolicy"] = restart_policy(flags["restart"])
    return found


@verb(
    "update CONTAINER [CONTAINER...]",
    "Update configuration of one or more containers",
    *FLAGS,
    low=1,
    high=None,
)
def update(arguments: list[str], **flags: Any) -> int:
    """Change containers, at once those that run."""
    context = running()
    if context is None or not context.used:
        raise CommandError("you must provide one or more flags when using this command")
    try:
        wanted = changes(flags)
    except InvalidArgument as exc:
        raise CommandError(str(exc)) from exc

    def change(name: str) -> None:
        engine().containers.get(name).update(**wanted)
        say(f"{name}\n")

    return each(arguments, change)
