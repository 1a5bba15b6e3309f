"""What a person sees while the demo runs: a panel that moves, or plain lines where there is no terminal."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ops.demo.figures import Totals

#: Readable in the smallest usual terminal.
WIDTH = 80

_NEWS_LINES = 6


@dataclass(frozen=True, slots=True)
class View:
    """One look at the running month. ``share`` of its business time is over, from 0 to 1."""

    now: datetime
    share: float
    totals: Totals
    webhooks: int
    """Answered 2xx, copies too."""
    webhooks_per_second: float
    lost: int
    """Callbacks that were never sent, on purpose."""
    waiting_for: str
    """What the pipeline is given time for; empty while business time runs."""


class Screen(Protocol):
    """Where the demo shows what happens. Used as a context manager; what is printed after it stays below."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def step(self, words: str) -> None:
        """Something is being started, or looked at in the end."""

    def update(self, view: View) -> None:
        """The month has gone on, or the pipeline has."""

    def news(self, at: datetime, sentences: Sequence[str]) -> None:
        """What has happened up to a business instant."""

    def mishap(self, at: datetime, sentence: str) -> None:
        """What was broken on purpose."""


def make(console: Console) -> Screen:
    """The panel where ``console`` is a terminal, else the lines."""
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class LiveScreen:
    """A panel in a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._step = ""
        self._view: View | None = None
        self._news: deque[tuple[datetime, str, str]] = deque(maxlen=_NEWS_LINES)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8)  # renders at once

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def step(self, words: str) -> None:
        self._step = words

    def update(self, view: View) -> None:
        self._view = view
        self._step = ""

    def news(self, at: datetime, sentences: Sequence[str]) -> None:
        self._news.extend((at, sentence, "") for sentence in sentences)

    def mishap(self, at: datetime, sentence: str) -> None:
        self._news.append((at, sentence, "yellow"))

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._view is not None:
            parts += [*self._month(self._view), Text(), self._latest()]
        if self._step:
            parts.append(Text(f"{self._step} …", style="cyan"))
        seconds = int(time.monotonic() - self._started)
        return Panel(
            Group(*parts),
            title="Altiora · a month of calls, billed",
            title_align="left",
            subtitle=f"{seconds // 60}:{seconds % 60:02d} · Ctrl-C ends it",
            subtitle_align="right",
            width=min(self._console.width, WIDTH),
            padding=(0, 1),
        )

    def _month(self, view: View) -> list[RenderableType]:
        top = Table.grid(padding=(0, 2), expand=True)
        top.add_column(no_wrap=True)
        top.add_column(ratio=1)
        top.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=1.0, completed=view.share)
        top.add_row(Text(f"{view.now:%a %d %b %Y  %H:%M} UTC", style="bold"), bar, f"{view.share:.0%}")
        totals = view.totals
        figures = Table.grid(padding=(0, 1), expand=True)
        for _ in range(3):
            figures.add_column(no_wrap=True)
            figures.add_column(justify="right", no_wrap=True, style="bold", min_width=6)
            figures.add_column(width=1)
        figures.add_row(
            *("calls counted", f"{totals.calls:,}", ""),
            *("webhooks", f"{view.webhooks:,}", ""),
            *("periods closed", f"{totals.closed:,}", ""),
        )
        figures.add_row(
            *("minutes", f"{totals.minutes:,}", ""),
            *("a second", f"{view.webhooks_per_second:,.0f}", ""),
            *("pushes to Stripe", f"{totals.pushed:,}", ""),
        )
        figures.add_row(
            *("minutes carried", f"{totals.carried:,}", ""),
            *("not applied yet", f"{totals.pending:,}", ""),
            *("under way", f"{totals.unsettled:,}", ""),
        )
        broken = f"on purpose: callbacks lost {view.lost:,}, answers of Stripe's lost or refused {totals.sent_again:,}"
        waiting = f"time stands still until done: {view.waiting_for}" if view.waiting_for else "time runs"
        return [top, Text(), figures, Text(), Text(broken, style="yellow"), Text(waiting, style="dim")]

    def _latest(self) -> RenderableType:
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="dim", no_wrap=True, min_width=len("01 Nov 00:00"))  # never cut for a long sentence
        lines.add_column(overflow="fold")
        for at, sentence, style in self._news:
            lines.add_row(f"{at:%d %b %H:%M}", Text(sentence, style=style))
        for _ in range(_NEWS_LINES - len(self._news)):
            lines.add_row("", "")
        return lines


class PlainScreen:
    """Lines for a file or a pipe: one a business day, and one for each mishap."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._day = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, words: str) -> None:
        self._print(words)

    def update(self, view: View) -> None:
        day = f"{view.now:%d %b}"
        if day != self._day:
            self._day = day
            totals = view.totals
            self._print(
                f"{view.now:%a %d %b}  calls {totals.calls:,}  minutes {totals.minutes:,}"
                f"  webhooks {view.webhooks:,}  closed {totals.closed:,}  pushes {totals.pushed:,}"
            )

    def news(self, at: datetime, sentences: Sequence[str]) -> None:
        """Too many for a log."""

    def mishap(self, at: datetime, sentence: str) -> None:
        self._print(f"{at:%a %d %b}  on purpose: {sentence}")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()
