"""`pyrunc events`."""

import sys
import time
from datetime import UTC, datetime
from typing import Any

from pyrunc.cli.flags import Flag
from pyrunc.cli.session import CommandError, engine, say
from pyrunc.cli.template import Template, TemplateError
from pyrunc.cli.values import Struct, encode
from pyrunc.cli.verb import verb
from pyrunc.engine.events import Event
from pyrunc.engine.times import moment_ns

_TEMPLATE_CODE = 64


class _Message(Struct):
    """Docker's message with all its fields; JSON leaves out what `omitted` says if it is empty."""

    type_name = "*events.Message"
    aliases = {  # noqa: RUF012 - as its base has it
        "ID": "id", "Status": "status", "From": "from", "Scope": "scope", "Time": "time", "TimeNano": "timeNano",
    }  # fmt: skip
    omitted = ("status", "id", "from")


class _Actor(Struct):
    type_name = "events.Actor"


@verb(
    "events", "Get real time events",
    Flag("-f --filter", "filter", "Filter output based on conditions provided"),
    Flag("--format", "string", "Format output: 'json', or a Go template"),
    Flag("--since", "string", "Show all events created since timestamp"),
    Flag("--until", "string", "Stream events until this timestamp"),
)  # fmt: skip
def events(filter: list[tuple[str, str]], format: str, since: str, until: str, arguments: list[str]) -> None:
    """One line for each event, as it comes; with --until in the past, those that there were."""
    del arguments
    show = _shower(format)
    try:
        since_ns = moment_ns(since) if since else None
        until_ns = moment_ns(until) if until else None
    except ValueError as exc:
        raise CommandError(str(exc)) from exc
    if until_ns is not None:
        since_ns = since_ns or 0
        if since_ns > until_ns:
            raise CommandError(
                "Error: `since` time "
                f"({since_ns // 10**9}) cannot be after `until` time ({until_ns // 10**9})"
            )
    follow = until_ns is None or until_ns > time.time_ns()
    for event in engine().events(since_ns=since_ns, until_ns=until_ns, follow=follow, filters=filter):
        say(f"{show(event)}\n")
        sys.stdout.flush()


def _shower(template: str) -> Any:
    """What makes a line of an event."""
    if not template:
        return _line
    try:
        compiled = Template("{{json .}}" if template == "json" else template, {"json": _json})
    except TemplateError as exc:
        raise CommandError(f"Error parsing format: {exc}", _TEMPLATE_CODE) from exc

    def show(event: Event) -> str:
        try:
            return compiled.execute(_message(event))
        except TemplateError as exc:
            raise CommandError(f"Error parsing format: {exc}", _TEMPLATE_CODE) from exc

    show(Event("", "", "0" * 64, {}, 0))  # a field that there is not is told now, not when something happens
    return show


def _line(event: Event) -> str:
    moment = datetime.fromtimestamp(event.time_ns // 10**9, UTC).astimezone()
    zone = moment.isoformat()[19:].replace("+00:00", "Z")
    text = (
        f"{moment:%Y-%m-%dT%H:%M:%S}.{event.time_ns % 10**9:09}{zone} {event.type} {event.action} {event.id}"
    )
    if event.attributes:
        text += " (" + ", ".join(f"{key}={event.attributes[key]}" for key in sorted(event.attributes)) + ")"
    return text


def _message(event: Event) -> _Message:
    found = event.message()
    actor = _Actor(ID=event.id, Attributes=dict(event.attributes))
    return _Message({name: found.get(name, "") for name in _Message.omitted} | {**found, "Actor": actor})


def _json(value: Any) -> str:
    if isinstance(value, _Message):
        value = Struct({key: item for key, item in value.items() if item != "" or key not in value.omitted})
    return encode(value, escape=True)
