"""Progress on stderr: a bar with the time left on a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_S = 30.0


class ProgressLine:
    """Shows how far a long job is. Use as a context manager and call `update`."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar: Progress | None = None
        self.began = self.last = time.monotonic()
        self.first = self.done = 0.0

    def __enter__(self) -> ProgressLine:
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.bar.start()
            self.bar.add_task("", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, what: str, done: float, total: float) -> None:
        """Say that `done` of `total` units of work are done, and what is being worked on.

        Work that falls back is another stage, with a pace of its own.
        """
        if done < self.done:
            self.began, self.first = time.monotonic(), done
            if self.bar:
                self.bar.reset(self.bar.task_ids[0])
        self.done = done
        if self.bar:
            self.bar.update(self.bar.task_ids[0], description=what, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self.last >= QUIET_S and done > self.first:
            self.last = now
            left = (now - self.began) * (total - done) / (done - self.first)
            self.console.print(f"{what}: {done / total:.0%} done, about {left:.0f} s left")
