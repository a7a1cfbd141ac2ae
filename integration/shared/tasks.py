"""Tasks: prompts and verifiers from reasoning-gym, with held-out questions that are never trained on."""

from __future__ import annotations

import ast
import difflib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from integration.options.errors import UserError

CORRECT = 1.0 - 1e-9
"""The smallest score of a right answer; verifiers give partial credit below 1."""


EXECUTING = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)
"""Tasks whose verifier passes the answer to `eval`, or to sympy's `parse_expr`, which does. They are refused: what a model
writes could end the run, hang it, or do anything that this process may do."""


@dataclass(frozen=True)
class Example:
    """One question of a task."""

    question: str
    answer: str | None
    """The generator's own solution; some tasks have none, only a verifier."""
    entry: dict[str, Any] = field(repr=False)


@dataclass
class Task:
    """Examples to train on, examples held out, and the verifier."""

    name: str
    train: list[Example]
    held_out: list[Example]
    verifier: Any = field(repr=False)
    args: tuple[str, ...] = ()
    """The generator's arguments, as key=value."""
    verifier_errors: int = 0
    """Answers on which the verifier itself failed, or gave no number in [0, 1]; they score 0."""

    def score(self, example: Example, text: str) -> float:
        """Reward of an answer in [0, 1], from reasoning-gym's verifier of the task."""
        try:
            score = float(self.verifier.score_answer(answer=text.strip(), entry=example.entry))
        except Exception:  # reasoning-gym has 106 verifiers, and some fail on odd answers: counted and reported
            score = math.nan
        if 0.0 <= score <= 1.0:
            return score
        self.verifier_errors += 1
        return 0.0

    def prompts_for(self, step: int, count: int, seed: int) -> list[Example]:
        """`count` training examples for a step: epoch after epoch in a new order. A pure function of its arguments,
        so that a resumed run has the same prompts."""
        chosen = []
        for position in range(step * count, (step + 1) * count):
            epoch, index = divmod(position, len(self.train))
            order = random.Random(f"{seed}:{epoch}").sample(range(len(self.train)), len(self.train))
            chosen.append(self.train[order[index]])
        return chosen


def load_task(name: str, task_args: Sequence[str], *, seed: int, train_size: int, held_out_size: int) -> Task:
    """Generate a task and split it by question: no held-out question is ever trained on.

    Raises UserError for an unknown task, wrong arguments, or a task with too few distinct questions.
    """
    import reasoning_gym  # noqa: PLC0415 (a second and a half, which --help does not need)
    from reasoning_gym.factory import DATASETS  # noqa: PLC0415 (as above)

    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UserError(f"--task: reasoning-gym has no task {name!r}{hint}")
    if name in EXECUTING:
        raise UserError(
            f"--task: the verifier of {name} in reasoning-gym executes the model's answer as Python code, in this process and "
            "without a time limit; choose another task"
        )
    try:
        dataset = reasoning_gym.create_dataset(
            name, seed=seed, size=4 * (train_size + held_out_size), **parse_args("--task-args", task_args)
        )
        held_out, train = _split(dataset, train_size, held_out_size)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"--task-args: {name} does not accept {' '.join(task_args) or 'its defaults'}: {error}") from error
    distinct = len({e.question for e in train})
    if len(held_out) < held_out_size or distinct < held_out_size:
        raise UserError(
            f"--task: {name} has only {len(held_out) + distinct} distinct questions with these arguments; {held_out_size} "
            "held out would leave too few to train on. Widen --task-args or lower --eval-prompts"
        )
    overlap = {e.question for e in held_out} & {e.question for e in train}
    if overlap:
        raise AssertionError(f"held-out questions among the training questions: {sorted(overlap)[:3]}")
    return Task(name, train, held_out, dataset, tuple(task_args))


def _split(dataset: Any, train_size: int, held_out_size: int) -> tuple[list[Example], list[Example]]:
    """The first distinct questions are held out; later draws of other questions are for training, repeats included."""
    held_out: dict[str, Example] = {}
    train: list[Example] = []
    for index in range(len(dataset)):
        entry = dataset[index]
        example = Example(entry["question"].strip(), entry["answer"], entry)
        if len(held_out) < held_out_size:
            held_out.setdefault(example.question, example)
        elif example.question not in held_out:
            train.append(example)
            if len(train) == train_size:
                break
    return list(held_out.values()), train


def parse_args(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """`k=v` pairs as keyword arguments; v is a Python literal if it reads as one, else a string."""
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"{option}: expected key=value, got {pair!r}")
        try:
            parsed[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key] = value
    return parsed
