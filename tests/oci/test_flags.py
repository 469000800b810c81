"""How a command line is read: what a script that was written for runc relies on."""

from pathlib import Path

import pytest

from pyrunc.oci import reference
from pyrunc.oci.flags import BadUsage, duration_ns, integer, parse, quote
from pyrunc.oci.grammar import GLOBAL, VERBS
from pyrunc.oci.usage import usage


def test_flags_have_one_dash_or_two_and_values_behind_a_space_or_an_equals_sign() -> None:
    for line in (
        ["--root=/r", "kill", "--all", "x", "KILL"],
        ["-root", "/r", "kill", "-all=true", "x", "KILL"],
        ["--root", "/r", "kill", "--all", "--", "x", "KILL"],
    ):
        command = parse(line, "/bin/pyrunc-oci")
        assert (command.options.root, command.verb, command.flag("all")) == ("/r", "kill", True), line
        assert (command.raw, command.front_door) == (tuple(line), "/bin/pyrunc-oci")
    assert parse(["kill", "x", "KILL"]).arguments == ["x", "KILL"]
    assert parse(["kill", "-a=0", "x"]).flag("all") is False


def test_flags_may_follow_the_arguments_but_not_those_of_exec_and_ps() -> None:
    assert parse(["delete", "x", "--force"]).flag("force")
    command = parse(["exec", "-t", "-e", "A=1", "x", "ls", "-t", "--", "-d"])
    assert command.arguments == ["x", "ls", "-t", "--", "-d"] and command.flag("tty")
    assert parse(["kill", "x", "-9"]).arguments == ["x", "-9"]
    assert parse(["ps", "x", "-f", "json"]).text("format") == "table"


def test_a_value_that_was_not_given_is_its_default() -> None:
    command = parse(["events", "x"])
    assert command.number("interval") == 5_000_000_000 and not command.given
    assert parse(["exec", "x", "ls"]).texts("env") == []
    assert parse(["exec", "-e", "A", "-e", "B", "x", "ls"]).texts("env") == ["A", "B"]
    assert parse(["checkpoint", "x"]).number("status-fd") == -1
    assert parse(["update", "x", "--pids-limit", "-1", "--cpu-share", "4"]).number("pids-limit") == -1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["state"], 'pyrunc-oci: "state" requires exactly 1 argument(s)'),
        (["ps"], 'pyrunc-oci: "ps" requires a minimum of 1 argument(s)'),
        (["kill", "a", "b", "c"], 'pyrunc-oci: "kill" requires a maximum of 2 argument(s)'),
        (["state", "--zz", "x"], "flag provided but not defined: -zz"),
        (["create", "--bundle"], "flag needs an argument: -bundle"),
        (["create", "--preserve-fds", "x", "y"], 'invalid value "x" for flag -preserve-fds: parse error'),
        (["kill", "-a=maybe", "x"], 'invalid boolean value "maybe" for -a: parse error'),
        (["create", "---b", "x"], "bad flag syntax: ---b"),
        (["create", "-b", "x", "--bundle", "y", "z"], "Cannot use two forms of the same flag: b bundle"),
        (["events", "--interval", "5", "x"], 'invalid value "5" for flag -interval: parse error'),
    ],
)
def test_what_cannot_be_read_is_refused_in_runcs_words(line: list[str], message: str) -> None:
    with pytest.raises(BadUsage) as caught:
        parse(line)
    assert (caught.value.message, caught.value.verb, caught.value.exit_code) == (message, line[0], 1)


@pytest.mark.parametrize("line", [["bogus"], ["help", "bogus"], ["-", "state"]])
def test_an_unknown_verb_is_exit_code_3(line: list[str]) -> None:
    with pytest.raises(BadUsage) as caught:
        parse(["--log", "/l", *line])
    assert caught.value.exit_code == 3 and caught.value.verb is None
    assert caught.value.options is not None and caught.value.options.log == "/l"


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("-1", -1), ("0x10", 16), ("010", 8), ("0b11", 3), ("1_000", 1000)]
)
def test_numbers_are_read_as_go_reads_them(text: str, number: int) -> None:
    assert integer(text) == number


@pytest.mark.parametrize("text", ["", "+", "--1", " 1", "1 ", "1.0", "0x", "٣", "1e3", "-"])
def test_what_is_no_number_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        integer(text)


def test_a_number_out_of_range_is_told_from_none_at_all() -> None:
    with pytest.raises(OverflowError):
        integer("9223372036854775808")
    assert integer("18446744073709551615", 64, signed=False) == (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1s", 10**9),
        ("1m30s", 90 * 10**9),
        ("1.5s", 1500 * 10**6),
        (".5ms", 500_000),
        ("0", 0),
        ("-1s", -(10**9)),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, nanoseconds: int) -> None:
    assert duration_ns(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "1s2", "1..2s", ". s", "-", "1 s"])
def test_what_is_no_duration_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        duration_ns(text)


def test_text_is_quoted_as_go_quotes_it() -> None:
    assert quote('a"b\\\n\x01é\udcff\x7f') == '"a\\"b\\\\\\n\\x01é\\xff\\x7f"'


def test_the_help_of_every_verb_names_each_of_its_flags() -> None:
    for name, verb in VERBS.items():
        text = usage(name)
        for flag in verb.flags:
            assert (f"--{flag.names[0]}" in text) != flag.hidden, (name, flag)
    whole = usage("")
    assert all(f"--{flag.names[0]}" in whole for flag in GLOBAL) and all(
        f"   {name} " in whole for name in VERBS
    )


def test_the_page_of_the_documentation_is_made_of_what_there_is() -> None:
    page = Path(__file__).parents[2] / "docs/oci.md"
    assert page.read_text() == reference.text(), "python -m pyrunc.oci.reference > docs/oci.md"
