"""Templates give what Go's text/template gives, errors included; what docker printed is in the fixtures."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pyrunc.cli import format as formats
from pyrunc.cli.template import Template, TemplateError
from pyrunc.cli.values import NilMap, NilSlice, Struct, encode

_FIXTURES = Path(__file__).parents[1] / "fixtures/docker"

_CONFIG = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
)


def _steps(name: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((_FIXTURES / f"{name}.json").read_text())["steps"]
    return steps


def _as_go(value: Any, key: str = "") -> Any:
    """A JSON document with the kinds of values that Docker's own types have."""
    if isinstance(value, dict):
        kind: type[dict[str, Any]] = dict if key in ("Labels", "ExposedPorts", "Volumes") else Struct
        return kind({name: _as_go(item, name) for name, item in value.items()})
    if isinstance(value, list):
        return [_as_go(item) for item in value]
    return value


def _inspected() -> Struct:
    shown = next(step["stdout"] for step in _steps("inspect") if step["line"] == "image inspect alpha:1")
    found = _as_go(json.loads(shown)[0])
    assert isinstance(found, Struct)
    return found


def _as_docker(document: Struct) -> Struct:
    """Its Config in the order of Docker's type, without what is empty."""
    config = document["Config"]
    return Struct(
        {**document, "Config": Struct({name: config[name] for name in _CONFIG if config.get(name)})}
    )


_CASES = [
    (shlex.split(step["line"])[3], step)
    for step in _steps("inspect")
    if step["line"].startswith(("image inspect -f ", "image inspect --format ")) and step["line"].endswith(" alpha:1")
]  # fmt: skip


@pytest.mark.parametrize(("template", "step"), _CASES, ids=[template for template, _ in _CASES])
def test_inspect_prints_what_docker_prints(template: str, step: dict[str, Any]) -> None:
    if template == "json":
        assert (
            formats.documents(template, [_as_go(document) for document in json.loads(step["stdout"])])
            == step["stdout"]
        )
        return
    document = _as_docker(_inspected())
    expected = step["stderr"].strip().removeprefix("template parsing error: ") or step["stdout"]
    try:
        found = formats.documents(template, [document])
    except TemplateError as exc:
        found = str(exc)
    assert found == expected


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{range .Items}}[{{.}}]{{else}}none{{end}}", "[a][b]"),
        ("{{range .Nothing}}[{{.}}]{{else}}none{{end}}", "none"),
        ("{{range .Items}}{{if eq . `b`}}{{break}}{{end}}{{.}}{{end}}", "a"),
        ("{{range .Items}}{{if eq . `a`}}{{continue}}{{end}}{{.}}{{end}}", "b"),
        ("{{$x := .Name}}{{with .Map}}{{$x}}-{{.k}}{{end}}", "it-v"),
        ("{{$x := 1}}{{range .Items}}{{$x = .}}{{end}}{{$x}}", "b"),
        ("{{if .Empty}}1{{else if .Name}}2{{else}}3{{end}}", "2"),
        ("{{ /* not this */}}a {{- /* nor this */ -}} b", "ab"),
        ("{{ .Name | printf `%q` }} {{ (index .Items 1) | upper }}", '"it" B'),
        ("{{and .Name .Empty}}|{{or .Empty .Name}}|{{not .Empty}}", "|it|true"),
        ("{{lt 1 2}} {{ge 2 2}} {{ne .Name `x`}} {{eq .Name `a` `it`}}", "true true true true"),
        ("{{print 1 2 `a` 3}} {{println .Name}}", "1 2a3 it\n"),
        ("{{printf `%05d|%-4s|%4s|%x|%.1f|%t|%v|%%` 7 `a` `b` 255 1.25 true .Items}}",
         "00007|a   |   b|ff|1.2|true|[a b]|%"),
        ("{{printf `%d` .Name}} {{printf `%s`}} {{printf `a` 1}}", "%!d(string=it) %!s(MISSING) a%!(EXTRA int=1)"),
        ("{{.Nil}} {{.Slice}} {{.Dict}} {{json .Slice}} {{json .Dict}}", "<no value> [] map[] null null"),
        ("{{len .Name}} {{len .Items}} {{slice .Items 1}} {{index .Map `none`}}", "2 2 [b] "),
        ("{{html `<a>`}} {{urlquery `a b`}} {{join (split `a,b` `,`) `+`}}", "&lt;a&gt; a+b a+b"),
        ("{{'a'}} {{0x10}} {{1.50}} {{true}} {{`raw`}}", "97 16 1.5 true raw"),
        ("{{$.Name}} {{with .Map}}{{$.Name}}{{end}}", "it it"),
        ("{{define `x`}}{{end}}", "template: :1: {{define}} is not supported"),
        ("{{eq .Items .Items}}", None),
        ("{{eq .Name 1}}",
         'template: :1:2: executing "" at <eq .Name 1>: error calling eq: incompatible types for comparison'),
        ("a\nb {{.Wrong}}", 'template: :2:4: executing "" at <.Wrong>: map has no entry for key "Wrong"'),
        ("{{.Map.none}}{{if .Map.none}}x{{end}} {{eq .Map.none `v`}} {{.Dict.none}}", "<no value> false <no value>"),
        ("{{.Map.none.more}}",
         'template: :1:6: executing "" at <.Map.none.more>: nil pointer evaluating interface {}.more'),
        ("{{.Name 1}}", None),
        ("{{range .Name}}{{end}}", 'template: :1:8: executing "" at <.Name>: range can\'t iterate over it'),
        ("{{$y}}", 'template: :1: undefined variable "$y"'),
        ("{{.Name}", "template: :1: unrecognized character in action: U+007D '}'"),
        ("{{join .Name `,`}}", None),
        ("{{", "template: :1: unclosed action"),
        ("{{if .Name}}{{else}}{{else}}{{end}}", "template: :1: expected end; found {{else}}"),
        ("{{range 2}}{{.}}{{end}}{{range 0}}{{else}}none{{end}}", "01none"),
        ("{{printf `a%99999999d` 1}}", "a%!(NOVERB)%!(EXTRA int=1)"),
        ("{{printf `a%%%.99999999fb` 1.5}}", "a%%!(NOVERB)%!(EXTRA float64=1.5)"),
    ],
)  # fmt: skip
def test_a_template_gives_what_go_gives(template: str, text: str | None) -> None:
    value = Struct(
        {"Name": "it", "Empty": "", "Items": ["a", "b"], "Map": {"k": "v"}, "Nil": None, "Nothing": None,
         "Slice": NilSlice(), "Dict": NilMap()}
    )  # fmt: skip
    try:
        found = Template(template).execute(value)
    except TemplateError as exc:
        if text is not None and not text.startswith("template: "):
            raise
        found = str(exc)
    if text is None:
        assert found.startswith('template: :1:2: executing "" at <')
    else:
        assert found == text


def test_json_is_as_go_writes_it() -> None:
    value = Struct(b=[1, True, None, 1.5, 'a<\n\u2028"é'], a={"z": {}, "c": []}, n=NilSlice())
    assert encode(value) == '{"b":[1,true,null,1.5,"a<\\n\\u2028\\"é"],"a":{"c":[],"z":{}},"n":null}'
    assert encode("<&>", escape=True) == '"\\u003c\\u0026\\u003e"'
    assert encode(Struct(a=[1], b={}), indent=4) == '{\n    "a": [\n        1\n    ],\n    "b": {}\n}'


def test_a_table_has_titles_and_columns() -> None:
    lines = [formats.Row(ID="1", Name="short"), formats.Row(ID="two", Name="a much longer name")]
    headers = {"ID": "IMAGE ID", "Name": "NAME"}
    found = formats.rows("table {{.ID}}\\t{{upper .Name}}\\t{{.ID}}", lines, headers, "*x.context")
    assert found.splitlines() == [
        "IMAGE ID   NAME                 IMAGE ID",
        "1          SHORT                1",
        "two        A MUCH LONGER NAME   two",
    ]
    assert formats.rows("{{.ID}}", lines, headers, "") == "1\ntwo\n"
    assert formats.rows("table {{.ID}}", [], headers, "") == "IMAGE ID\n"
    with pytest.raises(TemplateError, match=r"can't evaluate field Wrong in type \*x.context"):
        formats.rows("{{.Wrong}}", lines, headers, "*x.context")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{range 1000000000000}}xxxxxxxxxx{{break}}{{end}}", None),
        ("{{range 1000000000000}}" + "x" * 1_000_000 + "{{end}}", "the output is longer than"),
        ("{{pad `x` 1000000000000 0}}", "more than 67108864 spaces"),
        ("{{if 1}}" * 5000 + "{{end}}" * 5000, "nested too deeply"),
        ("{{" + "(" * 5000 + "1" + ")" * 5000 + "}}", "nested too deeply"),
    ],
    ids=["break", "range", "pad", "if", "parentheses"],
)
def test_a_template_does_not_take_the_memory(template: str, words: str | None) -> None:
    if words is None:
        assert Template(template).execute({}) == "xxxxxxxxxx"
        return
    with pytest.raises(TemplateError, match=words):
        Template(template).execute({})
