"""What the chaos runs in containers, and which refusals are Docker's and so no finding."""

import re

IMAGE, OTHER = "chaos:latest", "chaos:old"
SHARED = tuple(f"shared{number}" for number in range(6))
VOLUMES = tuple(f"volume{number}" for number in range(3))
# How long a verb may take before it counts as hung: on two processors, with what else runs there.
BOUND_S = 90.0

_COUNT = "i=$((i+1)); echo $i"
# Each says that it begins, and counts from 1: in a log that is whole, nothing is missing in between.
LINES = 300
PROGRAMS = {
    "ends": f"echo begin; i=0; while [ $i -lt {LINES} ]; do {_COUNT}; done; echo end; exit 3",
    "good": f"echo begin; i=0; while [ $i -lt {LINES} ]; do {_COUNT}; done; echo end; exit 0",
    "slow": f"trap 'exit 0' TERM; echo begin; i=0; while true; do {_COUNT}; sleep 0.05; done",
    "deaf": f"trap '' TERM; echo begin; i=0; while true; do {_COUNT}; sleep 0.1; done",
    "family": f"(sleep 1000 & sleep 1000 & sleep 1000) & echo begin; i=0; while true; do {_COUNT}; sleep 0.2; done",
}
ENDING = ("ends", "good")
CODES = {"ends": 3, "good": 0}

# In Docker's words: a daemon that these workers acted on in the same way said them, and no others.
# A name is of a container, of an image or of a volume; who is faster decides.
_WORD = r"[/\w.:@-]+"
REFUSALS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"No such container: {_WORD}",
        rf"No such object: {_WORD}",
        rf"(get {_WORD}: )?no such volume( {_WORD})?",
        r'Conflict\. The container name "/[\w.-]+" is already in use by container',
        r"You cannot remove a (running|paused|restarting) container",
        rf"cannot remove container \"?{_WORD}\"?: container is (running|paused|restarting)",
        rf"removal of container {_WORD} is already in progress",
        rf"[Cc]ontainer {_WORD} is (not running|not paused|already paused|paused|restarting|already running)",
        r"cannot (start|restart|kill|stop|pause|exec in) a (paused|stopped|dead) container",
        r"[Cc]ontainer is (marked for removal|being removed|not running|paused|restarting)",
        rf"Can(not|'t) .*[Cc]ontainer {_WORD} is not (paused|running)",
        r"You cannot (attach to|start) a (stopped|paused|restarting) container",
        rf"remove {_WORD}: volume is in use - \[[0-9a-f, ]+\]",
        r"conflict: unable to (remove|delete)",
        r"must be forced",
        r"a prune operation is already running",
        r"Renaming a container with the same name as its current name",
        r"can ?not exec in a (stopped|paused) container",
        r"No such exec instance",
        r"Unable to find image|No such image",
        r"configured logging driver does not support reading",
        r"Restart policy cannot be updated because AutoRemove is enabled",
        r"cannot update a stopped container",
    )
)
# What the killer makes: a program, or what looks after it, was killed while it was being started or talked to.
KILLED = tuple(
    re.compile(pattern)
    for pattern in (
        r"the (supervisor|shim|container's init|container) .*(died|was killed|has ended|ended|is gone)",
        r"was killed",
        r"killed by signal 9",
        r"died before",
    )
)


def refused(text: str) -> bool:
    """Whether *text* is what docker says too when somebody else was faster."""
    return any(pattern.search(text) for pattern in REFUSALS)


def of_the_killer(text: str) -> bool:
    """Whether *text* tells of a process that was killed, which is no more than true."""
    return any(pattern.search(text) for pattern in KILLED)


def runs(lines: list[str]) -> list[list[str]]:
    """Cut what a container printed, over all its starts, at each beginning; the first may have lost its own."""
    found: list[list[str]] = []
    for line in lines:
        if line == "begin" or not found:
            found.append([])
        found[-1].append(line)
    return found


def gaps(lines: list[str], *, rotated: bool = False) -> list[str]:
    """What is wrong with one start's lines: it begins with "begin", counts from 1, and ends with the count or "end".

    Where the log was *rotated*, its beginning may be gone.
    """
    wrong = []
    numbers = [line for line in lines if line not in ("begin", "end")]
    if lines[0] != "begin" and not rotated:
        wrong.append(f"begins with {lines[0]!r}")
    if not all(line.isdigit() for line in numbers):
        wrong.append(f"has {[line for line in numbers if not line.isdigit()][:3]}")
        return wrong
    first = int(numbers[0]) if numbers and lines[0] != "begin" else 1
    expected = [str(number) for number in range(first, first + len(numbers))]
    if numbers != expected:
        at = next(at for at, (one, other) in enumerate(zip(numbers, expected, strict=True)) if one != other)
        wrong.append(f"has {numbers[at]} where {expected[at]} should be")
    if "end" in lines and lines[-1] != "end":
        wrong.append("goes on after its end")
    if "end" in lines and (not numbers or int(numbers[-1]) != LINES):
        wrong.append("ends too early")
    return wrong
