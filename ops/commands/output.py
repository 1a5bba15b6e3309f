"""What the commands print: JSON for programs, tables and sentences for people, what is wrong on standard error."""

import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import typer

#: The option of every command that prints data.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]

#: The option of commands that show the newest rows.
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many, the newest; 50 in a table, all of them as JSON.")
]


class WrongError(Exception):
    """The command found something wrong and ends with status 1; the message says what, and what to do next."""


def print_json(data: object) -> None:
    """Print ``data`` as JSON; instants as ISO 8601 in UTC, decimals as strings, what was read as its fields."""
    typer.echo(json.dumps(data, indent=2, default=_encode))


def _encode(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Decimal):
        return str(value)
    if not isinstance(value, datetime):
        raise TypeError(f"{type(value).__name__} has no JSON form here")
    return value.astimezone(UTC).isoformat()


def say(sentence: str) -> None:
    """Tell a person what was done, on standard output."""
    typer.echo(printable(sentence))


def say_wrapped(line: str) -> None:
    """Print a line, broken where the terminal ends and then set in; into a file or a pipe it goes whole."""
    width = shutil.get_terminal_size(fallback=(0, 0)).columns
    if width and len(line) > width:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        line = "\n".join(textwrap.wrap(printable(line), width, subsequent_indent=indent, break_on_hyphens=False))
        typer.echo(line)
        return
    say(line)


def print_blocks(blocks: Iterable[tuple[str, Mapping[str, object]]], *, nothing: str) -> None:
    """Print a line for each, and under it what is said of it, by names; ``nothing`` if there are none."""
    empty = True
    for head, said in blocks:
        empty = False
        say_wrapped(head)
        longest = max(map(len, said), default=0)
        for name, value in said.items():
            if value not in (None, ""):
                say_wrapped(f"    {name:{longest}}  {shown(value)}")
    if empty:
        say(nothing)


def warn(sentence: str) -> None:
    """Tell a person something beside the data, on standard error."""
    typer.echo(printable(sentence), err=True)


def print_table(
    rows: Iterable[Mapping[str, Any]], *, numbers: Sequence[str] = (), nothing: str = "There is nothing to show."
) -> None:
    """Print rows under the names of their fields, those in ``numbers`` to the right; ``nothing`` if there are none."""
    from rich.console import Console  # noqa: PLC0415 - rich is slow to load, and JSON does without
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    rows = list(rows)
    if not rows:
        say(nothing)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        whole = any(isinstance(row[name], datetime) for row in rows)  # an instant stays on one line
        justify: Literal["left", "right"] = "right" if name in numbers else "left"
        table.add_column(name.replace("_", " "), justify=justify, overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*(Text(printable(shown(value))) for value in row.values()))
    Console(file=sys.stdout).print(table)


def shown(value: object) -> str:
    """A value as people read it: instants in UTC to the second, thousands apart, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def age(seconds: int | None) -> str:
    """A duration in its two largest units, as ``3 h 5 min``."""
    if seconds is None:
        return ""
    units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)]
    parts: list[str] = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def printable(text: str) -> str:
    """``text`` without what would steer a terminal: what others sent us is shown, not obeyed."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)
