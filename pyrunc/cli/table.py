"""Columns of text, aligned as Docker's are: at least 10 wide, 3 spaces between, the last as long as it is.

A column is made of the cells of consecutive lines that have one there: as Go's text/tabwriter has it.
"""

_MIN_WIDTH, _PADDING = 10, 3


def align(text: str, least: int = _MIN_WIDTH) -> str:
    """*text* whose cells end with tabs and whose lines end with line feeds, in columns, each at least *least* wide."""
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(line) - 1) for line in lines]
    for number, line in enumerate(lines):
        for column in range(len(line) - 1):
            if not widths[number][column]:
                end = number
                while end < len(lines) and len(lines[end]) - 1 > column:
                    end += 1
                width = max(max(len(row[column]) for row in lines[number:end]) + _PADDING, least)
                for row in widths[number:end]:
                    row[column] = width
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(line, row, strict=False)) + line[-1]
        for line, row in zip(lines, widths, strict=True)
    )
