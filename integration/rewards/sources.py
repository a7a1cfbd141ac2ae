"""Where a task comes from: a description that both processes, the trainer's and the worker's, make the same task of."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from integration.rewards.holes import mended, passes
from integration.rewards.verdicts import Verdict, checked

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
"""Tasks whose verifier passes the answer to `eval`, or to sympy's `parse_expr`, which does. Each of their answers is judged in
a process of its own, so that none can change how the next one is judged."""


class Opened(Protocol):
    """A task that is ready to judge."""

    def score(self, entry: dict[str, Any], text: str) -> Any:
        """Of an answer to the question of `entry`; it may raise."""


class Source(Protocol):
    """Picklable; `open` gives the same task in every process."""

    @property
    def executing(self) -> bool:
        """Whether the verifier executes what the model writes."""

    def open(self) -> Opened:
        """Make the task."""


@dataclass(frozen=True)
class GymSource:
    """A dataset of reasoning-gym."""

    name: str
    args: dict[str, Any]
    """Of its config, nested values included."""
    seed: int
    size: int

    @property
    def executing(self) -> bool:
        """Whether its verifier executes what the model writes; of a composite, whether one of its parts does."""
        parts = [part.get("name") for part in self.args.get("datasets", ()) if isinstance(part, dict)]
        return not EXECUTING.isdisjoint([self.name, *parts])

    def dataset(self) -> Any:
        """The dataset. ValueError, TypeError or AssertionError for arguments that it does not take."""
        import reasoning_gym  # noqa: PLC0415 (a second and a half, which --help does not need)
        from reasoning_gym.composite import DatasetSpec  # noqa: PLC0415 (as above)

        args = dict(self.args)
        if self.name == "composite" and "datasets" in args:
            specs = [{"weight": 1.0, "config": {}, **part} for part in args["datasets"]]
            args["datasets"] = [DatasetSpec(**spec) for spec in specs]
        return reasoning_gym.create_dataset(self.name, seed=self.seed, size=self.size, **args)

    def open(self) -> Opened:
        """Make the dataset."""
        return _Gym(self.name, self.dataset())


@dataclass(frozen=True)
class _Gym:
    name: str
    dataset: Any

    def score(self, entry: dict[str, Any], text: str) -> Any:
        """By reasoning-gym's verifier, where its holes are closed."""
        kind = entry.get("metadata", {}).get("source_dataset", self.name) if self.name == "composite" else self.name
        if not passes(kind, entry, text):
            return 0.0
        return mended(kind, entry, text, self.dataset.score_answer(answer=text, entry=entry))


def judge(task: Opened, entry: dict[str, Any], text: str) -> Verdict:
    """One answer in this process, without limits. Random numbers that a verifier draws are the same every time."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (of a verifier that draws from it)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
            return checked(task.score(entry, text.strip()))
    except MemoryError:
        return Verdict(0.0, "memory")
    except SystemExit:
        return Verdict(0.0, "exit")
    except BaseException:  # what an answer that is executed raises can be anything
        return Verdict(0.0, "error")


@dataclass(frozen=True)
class Direct:
    """Judges in this process, without limits: for tests, and for tasks of one's own that execute nothing."""

    task: Opened

    def verdicts(self, pairs: Sequence[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Of (the question's entry, the answer), in their order."""
        return [judge(self.task, entry, text) for entry, text in pairs]
