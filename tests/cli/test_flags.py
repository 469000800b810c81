"""Flags are read as Docker's client reads them, and refused in its words."""

import pytest

from pyrunc.cli.flags import Flag, Refused, UsageError, parse

_FLAGS = [
    Flag("-a --all"), Flag("-f --filter", "filter"), Flag("-n --last", "int", default=-1), Flag("-q --quiet"),
    Flag("--format", "string"), Flag("-e --env", "list"), Flag("-m --memory", "bytes"), Flag("--platform", "strings"),
    Flag("-t --tty", refused="no terminals yet"), Flag("--cpus", "decimal"), Flag("--blkio-weight", "uint16"),
]  # fmt: skip


def test_every_way_to_write_a_flag() -> None:
    values, rest, used = parse(
        _FLAGS,
        ["x", "-aq", "-fa=b", "-f", "c=d", "--filter=e=f", "--format=", "-n5", "-e=A=b", "--env", "-x", "-m", "64m",
         "--platform", "a,b", "--cpus", "1.5", "y", "--", "-a"],
    )  # fmt: skip
    assert rest == ["x", "y", "-a"]
    assert values["all"] is True and values["quiet"] is True
    assert values["filter"] == [("a", "b"), ("c", "d"), ("e", "f")]
    assert (values["format"], values["last"], values["env"], values["memory"]) == (
        "",
        5,
        ["A=b", "-x"],
        64 << 20,
    )
    assert (values["platform"], values["cpus"], values["blkio_weight"]) == (["a", "b"], 1.5, None)
    assert "format" in used and "tty" not in used


def test_a_bool_can_be_switched_off() -> None:
    assert parse(_FLAGS, ["-a=true", "--quiet=false", "--all=0", "--tty=false"])[0]["all"] is False


def test_a_programs_own_flags_are_left_alone() -> None:
    values, rest, _ = parse(_FLAGS, ["-a", "image", "-q", "--", "-x"], interspersed=False)
    assert values["quiet"] is False
    assert rest == ["image", "-q", "--", "-x"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--wrong"], "unknown flag: --wrong"),
        (["--wrong=1"], "unknown flag: --wrong"),
        (["-ax"], "unknown shorthand flag: 'x' in -x"),
        (["-xa"], "unknown shorthand flag: 'x' in -xa"),
        (["--format"], "flag needs an argument: --format"),
        (["-an"], "flag needs an argument: 'n' in -n"),
        (["-a=maybe"],
         'invalid argument "maybe" for "-a, --all" flag: strconv.ParseBool: parsing "maybe": invalid syntax'),
        (["-f", "x"], 'invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)'),
        (["-n", "x"], 'invalid argument "x" for "-n, --last" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (["-m", "x"], "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'"),
        (["--blkio-weight", "65536"],
         'invalid argument "65536" for "--blkio-weight" flag: strconv.ParseUint: parsing "65536": value out of range'),
        (["--cpus", "inf"], 'invalid argument "inf" for "--cpus" flag: failed to parse inf as a rational number'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_dockers_words(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(_FLAGS, words)
    assert str(caught.value) == text


def test_what_is_not_done_is_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"^--tty: no terminals yet$"):
        parse(_FLAGS, ["-qt"])
