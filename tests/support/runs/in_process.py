"""Tasks whose verifier runs in the test's own process: quick tests start none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from integration.rewards.sources import Direct
from integration.rewards.verdicts import Verdict
from integration.rewards.worker import Worker
from integration.tasks.task import Task


def in_process(task: Task) -> Task:
    """The same task, judged here and without limits."""
    assert isinstance(task.verifier, Worker)
    return replace(task, verifier=Direct(task.verifier.source.open()))


@dataclass(frozen=True)
class Paid:
    """A verifier that pays what a function of the answer says, in place of a task's own."""

    score: Callable[[str], float]

    def verdicts(self, pairs: Sequence[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Of (the question's entry, the answer), in their order."""
        return [Verdict(self.score(text)) for _, text in pairs]
