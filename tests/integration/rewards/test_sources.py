"""Both processes make the same task of its description, and the list of tasks that execute answers is complete."""

from __future__ import annotations

import ast
import inspect
import pickle
import random
import textwrap
from typing import Any

import numpy as np
import pytest
from reasoning_gym.factory import DATASETS

from integration.rewards.sources import EXECUTING, GymSource, judge

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arc_agi leaves its file open


def executing(kind: type) -> bool:
    """Whether `score_answer` passes something to what executes it."""
    names = {"eval", "exec", "parse_expr", "sympify"}
    source = textwrap.dedent(inspect.getsource(kind.score_answer))  # type: ignore[attr-defined]  # a class of reasoning-gym's
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any((f.id if isinstance(f, ast.Name) else getattr(f, "attr", "")) in names for f in calls)


def test_the_tasks_that_execute_are_those_whose_sources_do() -> None:
    """number_sorting executes its own solution only."""
    assert {name for name, (kind, _) in DATASETS.items() if executing(kind)} == EXECUTING | {"number_sorting"}


def test_a_composite_executes_if_one_of_its_parts_does() -> None:
    parts = [{"name": "chain_sum"}, {"name": "countdown"}]
    assert GymSource("composite", {"datasets": parts}, 0, 4).executing
    assert not GymSource("composite", {"datasets": parts[:1]}, 0, 4).executing


@pytest.mark.slow
def test_an_entry_of_every_task_is_the_same_in_another_process_and_a_task_made_twice_draws_it_again() -> None:
    for name in sorted(set(DATASETS) - {"composite"}):
        source = GymSource(name, {}, 7, 3)  # whose second questions are made fast: knight_swap may take four seconds
        entry = source.dataset()[1]
        assert pickle.loads(pickle.dumps(entry)) == entry, name
        again = pickle.loads(pickle.dumps(source))
        assert again == source
        assert again.dataset()[1] == entry, name


class Drawing:
    """A verifier that draws its score."""

    def score(self, _entry: dict[str, Any], _text: str) -> float:
        """From both generators that a verifier is likely to use."""
        return (random.random() + float(np.random.rand())) / 2  # noqa: NPY002 (as a verifier might)


def test_a_verifier_that_draws_random_numbers_gives_the_same_score_every_time() -> None:
    assert len({judge(Drawing(), {}, "x") for _ in range(3)}) == 1
