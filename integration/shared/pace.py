"""Estimate of a run's duration, printed once, as soon as it can be known."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

QUIET: Any = {"leave": False, "delay": 2.0, "disable": None}
"""Options of a bar inside a rollout: only on a terminal, only if it takes more than two seconds, and gone at the end."""

MEASURED = 3
"""Rollouts of this process after which the estimate is made; the first, which warms the machine up, is left out."""


class Pace:
    """Collects the seconds of rollouts and evaluations."""

    def __init__(self, *, rollouts: int, done: int, eval_every: int) -> None:
        self._rollouts, self._done, self._every = rollouts, done, eval_every
        self._seconds: list[float] = []

    def after_rollout(self, seconds: float, evaluations: list[dict[str, Any]]) -> None:
        """Prints the estimate after the third rollout, if there is something left; `evaluations` are the run's lines so far."""
        self._done += 1
        self._seconds.append(seconds)
        left = self._rollouts - self._done
        if len(self._seconds) == MEASURED and left:
            tqdm.write(self.estimate(left, [row["seconds"] for row in evaluations if "seconds" in row]))

    def estimate(self, left: int, evaluations: list[float]) -> str:
        """One line: minutes for the rollouts and evaluations that are left, and what that rests on."""
        own = sum(self._seconds[1:]) / len(self._seconds[1:])
        ahead = 1 if self._every == 0 else sum(n % self._every == 0 or n == self._rollouts for n in self._ahead(left))
        each = sum(evaluations) / len(evaluations) if evaluations else 0.0
        known = f"{each:.3g} s an evaluation" if evaluations else "evaluations not counted, none was timed"
        what = f"{counted(left, 'more rollout')} and {counted(ahead, 'evaluation')}"
        return f"about {duration(left * own + ahead * each)} for {what} ({own:.3g} s a rollout, {known})"

    def _ahead(self, left: int) -> range:
        return range(self._rollouts - left + 1, self._rollouts + 1)


def counted(number: int, what: str) -> str:
    """1 evaluation, 2 evaluations."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """In the unit that a person would choose."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
