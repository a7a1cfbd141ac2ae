"""No held-out problem is trained on, whatever words it is asked in."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.tasks.splitting import PROBLEMS, problem_of, spaced, split
from integration.tasks.task import load_task


def program(question: str) -> str:
    """The program that a question of `bf` asks about, read from its text."""
    found = re.search(r"^[-+<>.,\[\]]{5,}$", question, re.MULTILINE)
    assert found is not None, question
    return found[0]


def test_no_held_out_program_of_bf_is_trained_on_in_other_words() -> None:
    """Its 2,309 words in two templates: 60 % of the held-out programs used to be in the training part."""
    task = load_task("bf", [], seed=0, train_size=400, held_out_size=60)
    held_out, train = ([program(e.question) for e in part] for part in (task.held_out, task.train))
    assert len(set(held_out)) == 60
    assert not set(held_out) & set(train)
    assert task.parts is not None
    assert task.parts.by_problem
    assert "in other words neither" in task.parts.sentence


@pytest.mark.parametrize("name", ["calendar_arithmetic", "simple_geometry", "sentence_reordering"])
def test_a_held_out_problem_is_known_by_what_the_generator_says_of_it(name: str) -> None:
    task = load_task(name, [], seed=0, train_size=400, held_out_size=60)
    held_out, train = ({problem_of(name, e.entry) for e in part} for part in (task.held_out, task.train))
    assert None not in held_out
    assert not held_out & train
    assert len(held_out) == 60


def test_the_split_of_a_task_that_words_a_problem_in_one_way_is_by_question() -> None:
    task = load_task("chain_sum", ["min_terms=2", "max_terms=2"], seed=0, train_size=60, held_out_size=20)
    assert task.parts is not None
    assert not task.parts.by_problem
    assert "compared as text" in task.parts.sentence
    assert [e.question for e in task.held_out[:2]] == [
        f"State the final answer to the following arithmetic problem: {x} =" for x in ("4 + 3", "3 + 1")
    ] or len(task.held_out) == 20


ENTRIES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.booleans()), max_size=40)


@given(ENTRIES, st.integers(1, 6), st.integers(1, 20))
def test_the_parts_share_no_problem_and_every_other_draw_is_in_one_of_them(
    draws: list[tuple[int, str, bool]], held: int, wanted: int
) -> None:
    """Problems 0 to 9 in two wordings each; some entries do not say their problem, which is then their text."""
    entries: list[dict[str, Any]] = [
        {"question": f"{number}{word}", "answer": "", **({"problem": number} if told else {})} for number, word, told in draws
    ]
    parts = split("own", entries, wanted, held)
    texts = [{e.question for e in part} for part in (parts.held_out, parts.train)]
    told = [{e.entry["problem"] for e in part if "problem" in e.entry} for part in (parts.held_out, parts.train)]
    assert not texts[0] & texts[1]
    assert not told[0] & told[1]
    assert len(parts.held_out) <= held
    assert len(texts[0]) == len(parts.held_out)
    assert len(parts.train) <= wanted
    if len(parts.held_out) == held and len(parts.train) < wanted:
        known = texts[0]
        left = [e for e in entries if e["question"] not in known and e.get("problem") not in told[0]]
        assert len(parts.train) == len(left), "all draws after the held-out ones that share nothing with them"


def test_seeds_are_spaced_and_seed_0_is_as_before() -> None:
    assert spaced(0) == 0
    starts = sorted(spaced(seed) for seed in range(100))
    assert min(b - a for a, b in pairwise(starts)) > 10**7


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arc_agi leaves its file open
def test_every_task_of_the_table_exists_and_has_the_fields_that_it_names() -> None:
    from reasoning_gym.factory import DATASETS, create_dataset  # noqa: PLC0415 (only this test wants it)

    for name, fields in PROBLEMS.items():
        assert name in DATASETS
        entry = create_dataset(name, seed=0, size=1)[0]
        assert fields == ("*",) or set(fields) <= {"answer", *entry["metadata"]}, name
