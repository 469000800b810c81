"""`--change` makes of a config what it makes in Docker, word for word.

docker_changes.jsonl was recorded from `docker import --change …` of Docker 20.10.24: changes, and the fields of the
config that are not empty, or the error.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrunc.errors import InvalidArgument
from pyrunc.image.changes import apply_changes, check_signal
from pyrunc.image.words import expand, split
from pyrunc.spec.durations import parse_duration

RECORDED = [
    json.loads(line) for line in Path(__file__).with_name("docker_changes.jsonl").read_text().splitlines()
]


def test_enough_was_recorded() -> None:
    assert len(RECORDED) > 100


@pytest.mark.parametrize("case", RECORDED, ids=[" ".join(case["changes"])[:60] for case in RECORDED])
def test_as_docker(case: dict[str, Any]) -> None:
    if "error" in case:
        with pytest.raises(InvalidArgument) as caught:
            apply_changes({}, case["changes"])
        assert str(caught.value) == case["error"]
    else:
        config = apply_changes({}, case["changes"])
        assert {key: value for key, value in config.items() if value not in (None, "")} == case["config"]


def test_what_the_config_has_is_added_to_and_stays_as_it_is_itself() -> None:
    before = {
        "Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "Labels": {"a": "1"}, "ExposedPorts": {"9/udp": {}},
        "Volumes": {"/v": {}}, "OnBuild": ["RUN x"], "WorkingDir": "/w", "Shell": ["/bin/bash", "-c"], "User": "u",
    }  # fmt: skip
    copy = json.dumps(before)
    after = apply_changes(
        before,
        [
            "ENV PATH=$PATH:/sbin B=${A}2",
            "LABEL b=2",
            "EXPOSE 80",
            "VOLUME /x",
            "ONBUILD RUN y",
            "WORKDIR sub",
            "ENTRYPOINT run me",
        ],
    )
    assert json.dumps(before) == copy
    assert after == {
        "Env": ["PATH=/bin:/sbin", "A=1", "B=12"], "Cmd": None, "Labels": {"a": "1", "b": "2"},
        "ExposedPorts": {"80/tcp": {}, "9/udp": {}}, "Volumes": {"/v": {}, "/x": {}}, "OnBuild": ["RUN x", "RUN y"],
        "WorkingDir": "/w/sub", "Shell": ["/bin/bash", "-c"], "User": "u", "Entrypoint": ["/bin/bash", "-c", "run me"],
    }  # fmt: skip
    assert apply_changes(before, []) == before


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("64", 64)],
)
def test_a_stop_signal_is_a_name_or_a_number(text: str, number: int) -> None:
    assert check_signal(text) == number
    assert apply_changes({}, [f"STOPSIGNAL {text}"])["StopSignal"] == text


@pytest.mark.parametrize(
    "text", ["x", "0", "65", "-1", "SIG", "SIG_DFL", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+", "²"]
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid signal"):
        apply_changes({}, [f"STOPSIGNAL {text}"])


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("1.5h", 5400 * 10**9),
        ("1h2m3.5s", 3723_500_000_000),
        ("5us7ns", 5007),
        ("-2ms", -2_000_000),
        (".5s", 5 * 10**8),
    ],
)
def test_durations_are_gos(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "5", "s", "1x", "1..5s", ".s", "1s2", "--1s", "9999999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"time: (invalid|missing unit|unknown unit)"):
        parse_duration(text)


def test_nested_words_are_replaced_and_bounded() -> None:
    assert expand("${a:-${b:-'c }'}}x", {}) == "c }x"
    with pytest.raises(InvalidArgument, match="nested deeper"):
        expand("${a:-" * 100_000, {})


@given(st.lists(st.text("ab \"'\\$", min_size=1, max_size=6), max_size=5))
def test_quoted_words_come_back(words: list[str]) -> None:
    quoted = ["'" + word.replace("'", "'\"'\"'") + "'" for word in words]
    assert [expand(word, {}) for word in split(" ".join(quoted))] == words


@given(st.text(max_size=40))
def test_any_text_is_a_change_or_refused(text: str) -> None:
    for name in ("ENV ", "LABEL ", "EXPOSE ", "CMD ", "VOLUME ", "HEALTHCHECK ", "STOPSIGNAL ", ""):
        try:
            json.dumps(apply_changes({"Env": ["a=b"]}, [name + text]))
        except InvalidArgument as exc:
            assert str(exc)
