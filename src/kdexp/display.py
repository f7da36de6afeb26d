"""Progress for people: rich bars on a terminal, a line per epoch or stage elsewhere."""

from __future__ import annotations

import logging
from types import TracebackType

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class Display:
    """A group of stages under one progress display; silent for the helper processes of a distributed run."""

    def __init__(self, *, visible: bool = True) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            transient=True,
        )
        self._visible = visible
        self._is_terminal = visible and self._progress.console.is_terminal
        self._progress.disable = not self._is_terminal
        self._reports: dict[str, Stage] = {}

    def __enter__(self) -> Display:
        if self._is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_terminal:
            self._progress.stop()

    def stage(self, name: str, total: int = 1) -> Stage:
        """A bar of its own."""
        return Stage(self._progress, name, total, self._visible and not self._is_terminal)

    def report(self, what: str, done: int, total: int) -> None:
        """The form of progress that data classes call (`contracts.ProgressReport`)."""
        stage = self._reports.get(what) or self._reports.setdefault(what, self.stage(what, total))
        stage.total = total
        stage.at(done)


class Stage:
    """One bar. Without a terminal, its notes become log lines."""

    def __init__(self, progress: Progress, name: str, total: int, logs: bool) -> None:
        self._progress, self._name, self._logs = progress, name, logs
        self._task = progress.add_task(name, total=total, note="")
        self.total = total

    def at(self, done: int) -> None:
        self._progress.update(self._task, completed=done, total=self.total)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def note(self, text: str) -> None:
        """A word beside the bar."""
        self._progress.update(self._task, note=text)
        if self._logs:
            log.info("%s: %s", self._name, text)
