"""Mutated plans against the supervisor's validator, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import errno
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from pyrunc._native import plan as native
from tests.fuzz import seeds

HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "pyrunc" / "_native"
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16"}
FD_COUNT = slice(56, 60)
SHIM_OFF = slice(76, 80)
STEPS = slice(16, 20)
VALIDATOR = ("plan.pxd", "plan_rules.pxd", "plan_oci.pxd", "plan_text.pxd")

Fuzz = Callable[[int, int], dict[int, int]]


def build(directory: Path, check: str = "", without: str = "") -> Path:
    """Link the harness around the validator, with *without* for *check*; its Python half falls away."""
    package = directory / "pyrunc" / "_native"
    package.mkdir(parents=True)
    for init in (package.parent, package):
        (init / "__init__.py").touch()
    shutil.copy(NATIVE / "linux.pxd", package)
    found = 0
    for name in VALIDATOR:
        text = (NATIVE / name).read_text()
        found += check in text
        (package / name).write_text(text.replace(check, without) if check else text)
    assert found
    shutil.copy(HERE / "plan_fuzz.pyx", directory)
    subprocess.run([sys.executable, "-m", "cython", "-3", "plan_fuzz.pyx"], check=True, cwd=directory)
    target = directory / "plan_fuzz"
    built = subprocess.run(
        # asan-globals=0: a list of all globals would keep the Python half
        ["gcc", "-O1", "-g", "-std=gnu11", "-w", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections",
         "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "--param", "asan-globals=0",
         "-Dplan_fuzz_main=main", "-DPy_LIMITED_API=0x030B0000", f"-I{sysconfig.get_paths()['include']}",
         "-o", target, directory / "plan_fuzz.c"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "cannot find" in built.stderr:
        pytest.skip("gcc has no AddressSanitizer here")
    assert built.returncode == 0, built.stderr
    return target


def run(program: Path, count: int, seed: int) -> dict[int, int]:
    """How many of *count* mutants got which answer (0 or an errno); AssertionError if a sanitizer finds something."""
    files = sorted(seeds.DIRECTORY.glob("*.plan"))
    done = subprocess.run(
        [program, str(count), str(seed), *files], capture_output=True, text=True, env=OPTIONS, check=False
    )
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    counts = (pair.split("=") for pair in done.stdout.split()[1:])
    return {int(answer): int(number) for answer, number in counts}


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    program = build(tmp_path_factory.mktemp("fuzz"))
    return lambda count, seed: run(program, count, seed)


def test_the_kept_seeds_are_plans_of_today_and_have_every_step() -> None:
    kept = {path.stem: path.read_bytes() for path in seeds.DIRECTORY.glob("*.plan")}
    assert kept.keys() == seeds.plans().keys()
    for name, plan in kept.items():
        count = int.from_bytes(plan[FD_COUNT], sys.byteorder)
        if shim := int.from_bytes(plan[SHIM_OFF], sys.byteorder):
            count += (plan[shim] & native.FLAG_LISTEN) + (
                plan[shim] & native.FLAG_CLIENT
            ) // native.FLAG_CLIENT
        assert native.validate(plan, count) == 0, f"{name} is out of date: run python -m tests.fuzz.seeds"
    assert {op for plan in kept.values() for op in ops(plan)} == {*native.STEP_NAMES}


def ops(plan: bytes) -> list[str]:
    """The kinds of steps in *plan*."""
    places = range(native.HEADER_SIZE, len(plan), native.STEP_SIZE)[
        : int.from_bytes(plan[STEPS], sys.byteorder)
    ]
    return [native.STEP_NAMES[int.from_bytes(plan[at : at + 2], sys.byteorder)] for at in places]


def check(answers: dict[int, int], count: int) -> None:
    """All mutants were judged, and neither nearly none nor nearly all of them were accepted."""
    assert sum(answers.values()) == count
    assert answers.keys() == {0, errno.EINVAL, errno.EPROTO, errno.EMSGSIZE, errno.E2BIG}
    assert count / 20 < answers[0] < count / 2


def test_mutants_never_lead_outside_their_plan(fuzz: Fuzz) -> None:
    check(fuzz(200_000, 1), 200_000)


@pytest.mark.soak
def test_millions_of_mutants_never_lead_outside_their_plan(fuzz: Fuzz) -> None:
    for seed in range(2, 12):
        answers = fuzz(1_000_000, seed)
        print(f"seed {seed}: {answers}")
        check(answers, 1_000_000)


# What the validator checks, and what it would be without.
CHECKS = {
    "arguments": ("        if table[i] >= h.strings_size:", "        if False:"),
    "the steps": ("not _inside(h.steps_off, <uint64_t>h.step_count * sizeof(plan_step), size)", "False"),
    "the last NUL": ("data[<uint64_t>h.strings_off + h.strings_size - 1] != 0", "False"),
    "slots": ("(step.slot_a >= PLAN_MAX_SLOTS) and (needs & NEEDS_SLOT_A or step.slot_a != <uint32_t>NONE)", "False"),
    "lists of options": ("step.n0 <= 4096 and _list_ends(strings, h.strings_size, step.s1, step.n0 * 2)", "True"),
    "the shim's place": ("h.shim_off & 7 or not _inside(h.shim_off, sizeof(plan_shim), size)", "False"),
    "the exit command": ("not _list_ends(strings, limit, s.exit_argv, s.exit_argc) or ", ""),
    "where the shim goes": ("_list_ends(strings, limit, s.hierarchies, s.hierarchy_count)", "True"),
    "the oci block's place": ("offset & 7 or not _inside(offset, sizeof(plan_oci), size)", "False"),
    "where the hooks are": ("not _inside(o.hooks_off, o.hook_count * sizeof(plan_oci_hook), size)", "False"),
    "a hook's words": (" or not _list_ends(strings, limit, hook.argv, hook.argc)", ""),
    "the texts of the state": ("o.state[i] >= limit", "False"),
    "programs": ("words * 8 <= h.blob_size - offset", "True"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHECKS)
def test_a_missing_check_is_found(tmp_path: Path, what: str) -> None:
    program = build(tmp_path, *CHECKS[what])
    with pytest.raises(AssertionError, match="seed 1"):
        run(program, 900_000, 1)
