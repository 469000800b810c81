"""A picture of the report as SVG: latency on the left, rate on the right."""

from html import escape
from typing import NamedTuple

COLOURS = {"exec": "#9aa5b1", "floor": "#52606d", "pyrunc": "#0b7285", "crun": "#e8890c", "runc": "#c92a2a"}
OTHER_COLOUR = "#868e96"
PANEL_WIDTH = 470
BAR_HEIGHT = 18
GROUP_GAP = 16
LABEL_WIDTH = 70
VALUE_WIDTH = 105
TOP = 64


class Bar(NamedTuple):
    """One bar: whose it is, how long, how far a thin line reaches beyond it (None: no line), and what it says."""

    name: str
    value: float
    reach: float | None
    text: str


Group = tuple[str, list[Bar]]


def _text(x: float, y: float, words: str, extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(words)}</text>'


def _panel(left: float, title: str, subtitle: str, groups: list[Group]) -> tuple[list[str], float]:
    """Draw one panel of horizontal bars; returns its elements and its lower edge."""
    bars = [bar for _, members in groups for bar in members]
    longest = max((max(bar.value, bar.reach or 0) for bar in bars), default=1) or 1
    scale = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest
    parts = [_text(left, 26, title, ' class="title"'), _text(left, 44, subtitle, ' class="note"')]
    y = float(TOP)
    for heading, members in groups:
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


def picture(latency: list[Bar], rates: list[Group], caption: str) -> str:
    """Return the SVG document.

    *latency* holds one bar a contender in milliseconds, reaching to its 95th percentile; *rates* one group for each
    number at once, in containers a second; *caption* is a line about the machine.
    """
    gap = 30
    left, left_end = _panel(
        20,
        "Latency of one start",
        "milliseconds, median; the line reaches to p95; shorter is better",
        [("", latency)],
    )
    right, right_end = _panel(
        20 + PANEL_WIDTH + gap, "Rate", "containers per second; longer is better", rates
    )
    height = max(left_end, right_end) + 22
    width = 2 * PANEL_WIDTH + gap + 40
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" '
        f'height="{height:.0f}" role="img">'
    )
    style = (
        "<style>text{font:12px sans-serif;fill:#1f2933}.title{font-size:15px;font-weight:bold}"
        ".note{fill:#616e7c;font-size:11px}.heading{font-weight:bold}</style>"
    )
    background = '<rect width="100%" height="100%" fill="#ffffff"/>'
    foot = _text(20, height - 12, caption, ' class="note"')
    return "\n".join([head, style, background, *left, *right, foot, "</svg>", ""])
