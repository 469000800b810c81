"""The report as Markdown and as a picture, made from its JSON form alone."""

from typing import Any

from benchmarks.draw import Bar, Group, Panel, picture

Report = dict[str, Any]

# (what, numerator, denominator, "at most" or "at least", limit); each side is a contender's name.
LATENCY_GOALS = (
    ("latency, pyrunc / floor", "pyrunc", "floor", "at most", 1.3),
    ("latency, Engine.run / floor", "engine", "floor", "at most", 1.8),
    ("latency, crun / pyrunc", "crun", "pyrunc", "at least", 2.5),
    ("latency, runc / pyrunc", "runc", "pyrunc", "at least", 7.0),
)
RATE_WIDTH = "8"
RATE_GOALS = (
    ("rate, 8 at once, pyrunc / floor", "pyrunc", "floor", "at least", 0.8),
    ("rate, 8 at once, pyrunc / crun", "pyrunc", "crun", "at least", 2.0),
    ("rate, 8 at once, pyrunc / runc", "pyrunc", "runc", "at least", 6.0),
)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table, whose first column is words and the others are figures."""
    aligned = ["---"] + ["---:"] * (len(head) - 1)
    return ["| " + " | ".join(row) + " |" for row in [head, aligned, *rows]]


def goals(report: Report) -> list[dict[str, Any]]:
    """Compare the goals of the project with the report; a goal whose contenders were not measured is left out."""
    peers = report["peers"]
    found = []
    latencies = {name: peer["latency"]["median_ms"] for name, peer in peers.items()}
    rates = {name: peer["rate_per_s"][RATE_WIDTH] for name, peer in peers.items()}
    for goals_of_kind, values in ((LATENCY_GOALS, latencies), (RATE_GOALS, rates)):
        for what, over, under, sense, limit in goals_of_kind:
            if over in values and under in values:
                ratio = values[over] / values[under]
                reached = ratio <= limit if sense == "at most" else ratio >= limit
                found.append({"what": what, "goal": f"{sense} {limit:g}", "ratio": ratio, "reached": reached})
    return found


def markdown(report: Report) -> str:
    """Return the report as Markdown: machine, contenders, goals, stages, what is missing, how it was measured."""
    machine, settings, peers = report["machine"], report["settings"], report["peers"]
    widths = [str(width) for width in settings["widths"]]
    floor = peers.get("floor", {}).get("latency", {}).get("median_ms")
    lines = [f"Measured on {caption(report)}, load {machine['load_1min']} at the beginning.", ""]
    head = ["one start of `/bin/true`", "median ms", "p95 ms", "min ms", "x floor"]
    head += [f"{width} at once, /s" for width in widths] + ["CPU ms", "syscalls"]
    rows = []
    for peer in peers.values():
        latency = peer["latency"]
        rows.append(
            [peer["title"]]
            + [f"{latency[key]:.2f}" for key in ("median_ms", "p95_ms", "min_ms")]
            + [f"{latency['median_ms'] / floor:.2f}" if floor else "-"]
            + [f"{peer['rate_per_s'][width]:.0f}" for width in widths]
            + [f"{peer['cpu_ms']:.2f}", "-" if peer["syscalls"] is None else f"{peer['syscalls']:.0f}"]
        )
    lines += table(head, rows)
    if found := goals(report):
        rows = [
            [goal["what"], goal["goal"], f"{goal['ratio']:.2f}", "yes" if goal["reached"] else "**no**"]
            for goal in found
        ]
        lines += ["", *table(["goal", "wanted", "measured", "reached"], rows)]
    for name, stages in report["stages"].items():
        lines += ["", f"Where the time of one start goes, {name}, medians:", ""]
        lines += table(["stage", "µs"], [[stage, f"{ns / 1e3:.0f}"] for stage, ns in stages.items()])
    if report["missing"]:
        lines += ["", *(f"- not measured: {name}: {reason}" for name, reason in report["missing"].items())]
    lines += ["", _notes(settings)]
    return "\n".join(lines) + "\n"


def _notes(settings: dict[str, Any]) -> str:
    return (
        f"Latency: {settings['rounds']} rounds of one start each, in a new order every round. "
        f"Rate: {settings['slices']} slices of about {settings['slice_s']:g} s each, in turn, all starts over all "
        "wall time. CPU: user and system of all processes involved, not the kernel's own threads. "
        "Syscalls: counted by strace in a separate pass. All contenders share one rootfs on a tmpfs and one private "
        "mount namespace. The floor's time is taken by itself; the others' includes Python's call. "
        "Where cgroup v1 is mounted the floor uses 8 hierarchies; runc and crun also name=systemd and the empty v2, "
        "and mount what is in /sys/fs/cgroup into the container."
    )


def caption(report: Report) -> str:
    """Say in one line what was measured on."""
    machine = report["machine"]
    versions = [str(machine[name]) for name in ("runc", "crun") if machine[name]]
    return (
        f"Linux {machine['kernel']} {machine['architecture']}, {machine['cores']} cores, cgroup {machine['cgroup']}, "
        f"Python {machine['python']}, {', '.join(versions)}"
    )


def svg(report: Report) -> str:
    """Return the picture of the report: what one start costs on the left, how many start in a second on the right."""
    peers = report["peers"]
    floor = peers.get("floor", {}).get("latency", {}).get("median_ms")
    latency = []
    for name, peer in peers.items():
        middle = peer["latency"]["median_ms"]
        text = f"{middle:.2f}" + (f" ({middle / floor:.1f}x)" if floor else "")
        latency.append(Bar(name, middle, peer["latency"]["p95_ms"], text))
    cpu = [Bar(name, peer["cpu_ms"], None, f"{peer['cpu_ms']:.2f}") for name, peer in peers.items()]
    calls = [
        Bar(name, peer["syscalls"], None, f"{peer['syscalls']:.0f}")
        for name, peer in peers.items()
        if peer["syscalls"] is not None
    ]
    rates: list[Group] = []
    for width in report["settings"]["widths"]:
        bars = [
            # Without isolation nothing bounds the rate; its bar would only flatten the others.
            Bar(name, peer["rate_per_s"][str(width)], None, f"{peer['rate_per_s'][str(width)]:.0f}")
            for name, peer in peers.items()
            if name != "exec"
        ]
        rates.append((f"{width} at once", bars))
    cost = [
        Panel("Latency of one start", "milliseconds, median; the line reaches to p95", [("", latency)]),
        Panel("CPU of one start", "milliseconds, user and system, all processes", [("", cpu)]),
    ]
    if calls:
        cost.append(Panel("System calls of one start", "number, all processes", [("", calls)]))
    return picture([cost, [Panel("Rate", "containers per second", rates)]], caption(report))
