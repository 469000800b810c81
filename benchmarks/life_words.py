"""The report of :mod:`benchmarks.life` as Markdown, and its goals; made from the JSON form alone."""

from typing import Any

from benchmarks.words import table

Report = dict[str, Any]
Value = float | None
_TITLES = {
    "start": 'one `Engine.run("hello")`',
    "cold": "`run --rm --network none IMAGE /bin/true`, from a shell",
    "crowd": "`Engine.start` of one more container",
    "exec": "`/bin/true` in a container that runs",
}
_BASE = {"start": "floor", "cold": "pyrunc", "crowd": "beside 1", "exec": "Container.exec"}


def _median(report: Report, section: str, name: str) -> Value:
    latency = report["sections"].get(section, {}).get("latency", {})
    return latency[name]["median_ms"] if name in latency else None


def _ratio(one: Value, other: Value) -> Value:
    return one / other if one is not None and other else None


def goals(report: Report) -> list[dict[str, Any]]:
    """Compare the goals with what was measured; what was not is left out."""
    sections = report["sections"]

    def ratio(section: str, one: str, other: str) -> Value:
        return _ratio(_median(report, section, one), _median(report, section, other))

    slopes = sections.get("idle", {}).get("slope_bytes", {})
    ps = sections.get("idle", {}).get("ps", {})
    running = sections.get("crowd", {}).get("running")
    found: list[tuple[str, str, float, Value]] = [
        ("latency, Engine.run / floor", "at most", 1.8, ratio("start", "run", "floor")),
        ("latency, Engine.run with shim, row, snapshot / floor", "at most", 1.8,
         ratio("start", "run, shim, row, snapshot", "floor")),
        ("cold command, podman / pyrunc", "at least", 1.0, ratio("cold", "podman", "pyrunc")),
        ("cold command, docker / pyrunc", "at least", 4.0, ratio("cold", "docker", "pyrunc")),
        *((f"MiB of PSS an idle container, {way}", "at most", 0.1, slope["pss"] / 2**20)
          for way, slope in slopes.items()),
        (f"ms, `ps` with {ps['running']['pyrunc']} running" if ps else "", "at most", 150.0,
         ps["latency"]["pyrunc"]["median_ms"] if ps else None),
        (f"latency of a start, {running} running / 1", "at most", 1.2, ratio("crowd", f"beside {running}", "beside 1")),
        ("ms, exec in process", "at most", 3.0, _median(report, "exec", "Container.exec")),
    ]  # fmt: skip
    return [
        {"what": what, "goal": f"{sense} {limit:g}", "value": value,
         "reached": value <= limit if sense == "at most" else value >= limit}
        for what, sense, limit, value in found if value is not None
    ]  # fmt: skip


def _latencies(title: str, latency: dict[str, Any], base: str) -> list[str]:
    unit = latency.get(base, {}).get("median_ms")
    rows = [
        [name, *(f"{taken[key]:.2f}" for key in ("median_ms", "p95_ms", "min_ms")),
         f"{taken['median_ms'] / unit:.2f}" if unit else "-"]
        for name, taken in latency.items()
    ]  # fmt: skip
    return ["", *table([title, "median ms", "p95 ms", "min ms", f"x {base}"], rows)]


def markdown(report: Report) -> str:
    """Return the report: machine, one table a section, goals, what is missing."""
    machine, settings = report["machine"], report["settings"]
    lines = [
        "## Containers with a life",
        "",
        (
            f"Measured on Linux {machine['kernel']}, {machine['cores']} cores, cgroup {machine['cgroup']}, Python "
            f"{machine['python']}, load {machine['load_1min']} at the beginning; interleaved, {settings['starts']} "
            f"starts, {settings['commands']} commands, {settings['execs']} execs of each."
        ),
    ]
    for name, part in report["sections"].items():
        if name == "idle":
            lines += _idle(part)
        else:
            lines += _latencies(_TITLES[name], part["latency"], _BASE[name])
    if report["goals"]:
        rows = [
            [goal["what"], goal["goal"], f"{goal['value']:.2f}", "yes" if goal["reached"] else "**no**"]
            for goal in report["goals"]
        ]
        lines += ["", *table(["goal", "wanted", "measured", "reached"], rows)]
    if report["missing"]:
        lines += ["", *(f"- not measured: {name}: {reason}" for name, reason in report["missing"].items())]
    return "\n".join(lines) + "\n"


def _idle(part: dict[str, Any]) -> list[str]:
    rows = [
        [way, *(f"{slope[key] / 1024:.1f}" for key in ("pss", "rss", "starter", "kernel"))]
        for way, slope in part["slope_bytes"].items()
    ]
    head = [
        f"KiB an idle detached container, slope from {part['from']} to {part['to']}", "PSS", "RSS",
        "PSS of the starter", "kernel, the container's own included",
    ]  # fmt: skip
    running = part["ps"]["running"]
    title = f"`ps` with {running['pyrunc']} running (docker: {running['docker']})"
    return ["", *table(head, rows), *_latencies(title, part["ps"]["latency"], "pyrunc")]
