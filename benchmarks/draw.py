"""Bars as SVG text: columns of panels of groups of bars."""

from html import escape
from typing import NamedTuple

COLOURS = {
    "exec": "#9aa5b1",
    "floor": "#52606d",
    "pyrunc": "#0b7285",
    "pyrunc-default": "#66a5ad",
    "engine": "#9cc5a1",
    "crun": "#e8890c",
    "runc": "#c92a2a",
}
OTHER_COLOUR = "#868e96"
PANEL_WIDTH = 470
BAR_HEIGHT = 18
GROUP_GAP = 16
LABEL_WIDTH = 104
VALUE_WIDTH = 105
HEAD_HEIGHT = 40
MARGIN = 20.0
COLUMN_GAP = 30


class Bar(NamedTuple):
    """One bar: whose it is, how long, how far a thin line reaches beyond it (None: no line), and what it says."""

    name: str
    value: float
    reach: float | None
    text: str


Group = tuple[str, list[Bar]]


class Panel(NamedTuple):
    """Bars of one unit and one scale, in groups with a heading each (empty: none)."""

    title: str
    subtitle: str
    groups: list[Group]


def _text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(words)}</text>'


def _panel(left: float, top: float, panel: Panel) -> tuple[list[str], float]:
    """Draw one panel of horizontal bars; returns its elements and its lower edge."""
    bars = [bar for _, members in panel.groups for bar in members]
    longest = max((max(bar.value, bar.reach or 0) for bar in bars), default=1) or 1
    scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest
    parts = [
        _text(left, top + 8, panel.title, ' class="title"'),
        _text(left, top + 26, panel.subtitle, ' class="note"'),
    ]
    y = top + HEAD_HEIGHT
    for heading, members in panel.groups:
        if heading:
            parts.append(_text(left, y + 10, heading, ' class="heading"'))
            y += 18
        for bar in members:
            middle = y + BAR_HEIGHT / 2
            start = left + LABEL_WIDTH
            length = bar.value * scale
            colour = COLOURS.get(bar.name, OTHER_COLOUR)
            parts.append(_text(start - 8, middle + 4, bar.name, ' text-anchor="end"'))
            parts.append(
                f'<rect x="{start:.1f}" y="{y + 1:.1f}" width="{max(length, 1):.1f}" '
                f'height="{BAR_HEIGHT - 4}" rx="2" fill="{colour}"/>'
            )
            end = start + length
            if bar.reach is not None:
                end = max(end, start + bar.reach * scale)
                parts.append(
                    f'<path d="M{start + length:.1f} {middle - 1:.1f}H{end:.1f}m0 -4v8" stroke="{colour}" fill="none"/>'
                )
            parts.append(_text(end + 6, middle + 4, bar.text))
            y += BAR_HEIGHT
        y += GROUP_GAP
    return parts, y


def picture(columns: list[list[Panel]], caption: str) -> str:
    """Return the SVG document: *columns* from left to right, each of panels from top to bottom, and a last line."""
    parts: list[str] = []
    bottom = 0.0
    for number, panels in enumerate(columns):
        y = MARGIN
        for panel in panels:
            elements, y = _panel(MARGIN + number * (PANEL_WIDTH + COLUMN_GAP), y, panel)
            parts += elements
        bottom = max(bottom, y)
    height = bottom + MARGIN
    width = len(columns) * (PANEL_WIDTH + COLUMN_GAP) - COLUMN_GAP + 2 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">'
    )
    style = (
        "<style>text{font:12px sans-serif;fill:#1f2933}.title{font-size:15px;font-weight:bold}"
        ".note{fill:#616e7c;font-size:11px}.heading{font-weight:bold}</style>"
    )
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    foot = _text(MARGIN, height - 10, caption, ' class="note"')
    return "\n".join([head, style, background, *parts, foot, "</svg>", ""])
