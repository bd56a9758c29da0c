"""Progress of training for the user: a bar on terminals, and a line for each evaluation on any console."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mamt_jax.training.metrics import STOPPED

_LISTED = 6
"""Largest number of runs with one line each."""


def plain_console() -> Console:
    """A console that prints text unchanged.

    Names are not read as markup, and long commands stay on one line, from which they can be copied.
    """
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False)


def say(console: Console, text: str) -> None:
    """Prints text unchanged on any console."""
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Display:
    """Progress of a training session; a context manager.

    Attributes:
        console: the console to print on.
    """

    def __init__(
        self, console: Console, total_episodes: int, evaluation_policy: str = "greedy", titles: Sequence[str] = ()
    ) -> None:
        """Shows progress towards `total_episodes`, and returns of `evaluation_policy`; `titles` are the names of the runs."""
        self.console = console
        self._titles = titles
        self._evaluation_policy = evaluation_policy
        columns = (BarColumn(bar_width=30), TextColumn("{task.description}", markup=False))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=total_episodes)
        self._status = ""

    def __enter__(self) -> "Display":
        """Shows the bar."""
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Removes the bar."""
        self._bar.stop()

    def note(self, text: str) -> None:
        """Prints one line of text."""
        say(self.console, text)

    def doing(self, what: str) -> None:
        """Shows on terminals an activity that takes a while."""
        self._bar.update(self._task, description=what)

    def advanced(self, episodes: int, updates_per_second: float, seconds_left: float) -> None:
        """Updates the bar with the episodes done, the updates per second and the remaining time."""
        self._status = f"{updates_per_second:.3g} updates/s · {duration(seconds_left)} left"
        done = f"{episodes:,} of {self._bar.tasks[0].total:,.0f} episodes"
        self._bar.update(self._task, completed=episodes, description=f"{done} · {self._status}")

    def evaluated(self, rows: Sequence[dict[str, Any]]) -> None:
        """Prints new rows of metrics.jsonl. Halted runs are left out, unless all runs have halted."""
        rows = [row for row in rows if STOPPED not in row] or rows
        first, several = rows[0], len(self._titles) > 1
        parts = [
            f"{duration(first['wall_seconds']):>11}",
            f"episodes {first['episodes']:>6,}",
            f"updates {first['updates']:>6,}",
            *([] if several else [self._returns(rows)]),
            *([self._status] if self._status else []),
        ]
        self.note(" · ".join(parts))
        if several:
            self.note("\n".join(self._runs(rows)))

    def _returns(self, rows: Sequence[dict[str, Any]]) -> str:
        """The returns of one run, or their mean and range over several runs."""
        fields = {self._evaluation_policy: "eval_return"}
        fields |= {"sampled": "eval_return_sampled"} if "sampled" not in fields else {}
        fields |= {"training": "train_return"} if rows[0]["episodes"] else {}
        return "return " + ", ".join(f"{name} {in_short([row[field] for row in rows])}" for name, field in fields.items())

    def _runs(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """One line for each run with its title. If there are many runs, one line for all of them and one for the best."""
        named = {self._titles[row["run"]]: [row] for row in rows}
        if len(rows) > _LISTED:
            best = max(rows, key=lambda row: row["eval_return"])
            named = {f"{len(rows)} runs": rows, f"best: {self._titles[best['run']]}": [best]}
        width = max(map(len, named))
        return [f"{'':13}{name:{width}}  {self._returns(own)}" for name, own in named.items()]


def in_short(values: Sequence[float]) -> str:
    """One return, or the mean and the range of several returns."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def duration(seconds: float) -> str:
    """A number of seconds as text, such as "2 min 05 s"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
