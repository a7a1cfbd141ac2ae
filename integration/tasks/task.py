"""Tasks: prompts and verifiers from reasoning-gym or a file of your own, with held-out problems that are never trained on."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from integration.options.errors import UserError
from integration.options.pairs import parse_args
from integration.options.task_names import require_known
from integration.rewards.files import FileSource
from integration.rewards.sources import GymSource, Source
from integration.rewards.verdicts import Limits, Verdict, Verifier
from integration.rewards.worker import Worker
from integration.tasks.generating import drawn
from integration.tasks.splitting import Example, Split, spaced, split

__all__ = ["CORRECT", "Example", "Task", "load_task", "parse_args"]

CORRECT = 1.0 - 1e-9
"""The smallest score of a right answer; verifiers give partial credit below 1."""


@dataclass
class Task:
    """Examples to train on, examples held out, and the verifier."""

    name: str
    train: list[Example]
    held_out: list[Example]
    verifier: Verifier = field(repr=False)
    args: tuple[str, ...] = ()
    """The generator's arguments, as key=value."""
    parts: Split | None = field(default=None, repr=False)
    """How the two parts were made."""

    def verdicts(self, examples: Sequence[Example], texts: Sequence[str]) -> list[Verdict]:
        """Of an answer to each example. All at once: they are one message to the process that judges."""
        return self.verifier.verdicts([(e.entry, text.strip()) for e, text in zip(examples, texts, strict=True)])

    def scores(self, examples: Sequence[Example], texts: Sequence[str]) -> list[float]:
        """Rewards in [0, 1]; 0 where the verifier failed."""
        return [verdict.score for verdict in self.verdicts(examples, texts)]

    def score(self, example: Example, text: str) -> float:
        """Reward of one answer."""
        return self.scores([example], [text])[0]

    def prompts_for(self, step: int, count: int, seed: int) -> list[Example]:
        """`count` training examples for a step: epoch after epoch in a new order. A pure function of its arguments,
        so that a resumed run has the same prompts."""
        places = (divmod(position, len(self.train)) for position in range(step * count, (step + 1) * count))
        return [self.train[_order(seed, epoch, len(self.train))[index]] for epoch, index in places]


@lru_cache(maxsize=4)  # a step sees one epoch or two
def _order(seed: int, epoch: int, count: int) -> list[int]:
    """The order of an epoch: every number below `count` once."""
    return random.Random(f"{seed}:{epoch}").sample(range(count), count)


def load_task(
    name: str, task_args: Sequence[str], *, seed: int, train_size: int, held_out_size: int, seconds: float = Limits.seconds
) -> Task:
    """Generate a task and split it by problem: no held-out problem is ever trained on. The same arguments give the same task.

    Args:
        name: one of reasoning-gym's, or a Python file.
        task_args: key=value.
        seed, train_size, held_out_size: what is drawn.
        seconds: of processor time that judging an answer may take.

    Raises UserError for an unknown task, wrong arguments, or a task with too few distinct questions.
    """
    args = parse_args("--task-args", task_args)
    source: Source
    if name.endswith(".py"):
        source = FileSource(name, args)
        entries = source.entries(4 * (train_size + held_out_size), seed)
        source.open()
        parts = split(name, entries, train_size, held_out_size)
    else:
        source = GymSource(_known(name), args, spaced(seed), 4 * (train_size + held_out_size))
        with closing(_gym_entries(source, task_args, train_size + held_out_size)) as drawing:
            parts = split(name, drawing, train_size, held_out_size)
    distinct = len({e.question for e in parts.train})
    if len(parts.held_out) < held_out_size or distinct < held_out_size:
        raise UserError(
            f"--task: {name} has only {len(parts.held_out) + distinct} distinct questions with these arguments; "
            f"{held_out_size} held out would leave too few to train on. Widen --task-args or lower --eval-prompts"
        )
    return Task(name, parts.train, parts.held_out, Worker(source, Limits(seconds)), tuple(task_args), parts)


def _known(name: str) -> str:
    """The name of one of reasoning-gym's tasks; UserError with those that are spelled alike."""
    from reasoning_gym.factory import DATASETS  # noqa: PLC0415 (a second and a half, which --help does not need)

    require_known(name, DATASETS)
    return name


def _gym_entries(source: GymSource, task_args: Sequence[str], wanted: int) -> Generator[dict[str, Any], None, None]:
    try:
        yield from drawn(source.dataset(), source.name, wanted)
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
        given = " ".join(task_args) or "its defaults"
        hint = ""
        if source.name == "composite":
            hint = """; write --task-args 'datasets=[{"name": "chain_sum", "weight": 1, "config": {"max_terms": 3}}, ...]'"""
        raise UserError(f"--task-args: {source.name} does not accept {given}: {error}{hint}") from error
