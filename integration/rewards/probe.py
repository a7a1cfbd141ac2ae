"""What an answer that does not look at the question is paid: junk, given to the verifier before a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from integration.rewards.verdicts import failures
from integration.tasks.task import CORRECT, Example, Task

JUNK = (
    "",
    "True",
    "False",
    "yes",
    "no",
    "Yes",
    "No",
    "true",
    "0",
    "1",
    "-1",
    "2",
    "nan",
    "inf",
    "[]",
    "A",
    "the",
    "?",
    "[[0]]",
)
QUESTION = "the question itself"
QUESTIONS = 24
PAYS = 0.1
"""Mean reward from which on a constant answer is worth a sentence."""


@dataclass(frozen=True)
class Probe:
    """The constant answer that pays most, over some training questions."""

    answer: str
    reward: float
    """Mean."""
    correct: float
    """Share of questions for which it counts as right."""
    questions: int
    failures: dict[str, int]
    """Answers on which the verifier failed, by kind."""

    @property
    def sentence(self) -> str:
        """For the log and the report."""
        shown = self.answer if self.answer == QUESTION else repr(self.answer)
        if self.reward < PAYS:
            return f"No constant answer pays: the best junk tried, {shown}, is paid {self.reward:.2f} on average."
        return (
            f"A constant answer pays: {shown} is paid {self.reward:.2f} on average, and is right for {self.correct:.0%} of "
            f"{self.questions} questions. Compare the rewards and accuracies of this run with that."
        )

    def row(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def probe(task: Task) -> Probe:
    """Junk answers and the task's three most frequent solutions, each to the same training questions, in one message."""
    examples = _different(task.train)
    usual = [
        answer for answer, seen in Counter(e.answer for e in task.train if e.answer is not None).most_common(3) if seen > 1
    ]
    answers = list(dict.fromkeys([*JUNK, *map(str, usual)]))
    pairs = [(example, answer) for answer in [*answers, None] for example in examples]
    verdicts = task.verdicts([e for e, _ in pairs], [e.question if answer is None else answer for e, answer in pairs])
    count = len(examples)
    best = Probe("", -1.0, 0.0, count, {})
    for index, answer in enumerate([*answers, QUESTION]):
        scores = [verdict.score for verdict in verdicts[index * count : (index + 1) * count]]
        reward = sum(scores) / count
        if reward > best.reward:
            best = Probe(answer, reward, sum(s >= CORRECT for s in scores) / count, count, failures(verdicts))
    return best


def _different(examples: list[Example]) -> list[Example]:
    """Up to `QUESTIONS` examples with different questions."""
    return list({e.question: e for e in examples[: 20 * QUESTIONS]}.values())[:QUESTIONS]
