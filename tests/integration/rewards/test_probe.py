"""A run says at its start what a constant answer is paid."""

from __future__ import annotations

import pytest
from support.runs.in_process import Paid, in_process

from integration.rewards.probe import QUESTIONS, probe
from integration.tasks.record import describe
from integration.tasks.task import Task, load_task


def task(name: str) -> Task:
    """A task, judged here."""
    return in_process(load_task(name, (), seed=0, train_size=60, held_out_size=10))


@pytest.mark.parametrize("name", ["isomorphic_strings", "ransom_note", "game_of_life_halting"])
def test_a_task_of_yes_and_no_pays_for_a_constant_answer(name: str) -> None:
    found = probe(task(name))
    assert found.answer in {"True", "False", "true"}
    assert 0.4 < found.reward <= 0.8
    assert found.sentence.startswith(f"A constant answer pays: {found.answer!r} is paid 0.")


@pytest.mark.parametrize("name", ["spell_backward", "chain_sum", "complex_arithmetic"])
def test_a_task_that_has_to_be_solved_does_not(name: str) -> None:
    found = probe(task(name))
    assert found.reward < 0.1
    assert found.sentence.startswith("No constant answer pays")


def test_a_verifier_that_pays_for_the_question_is_found_out() -> None:
    asked = task("spell_backward")
    questions = {e.question for e in asked.train}
    asked.verifier = Paid(lambda text: float(text in questions))
    assert probe(asked).sentence.startswith("A constant answer pays: the question itself is paid 1.00")


def test_the_most_frequent_solution_is_tried() -> None:
    asked = task("count_bits")
    asked.verifier = Paid(lambda text: float(text == max(usual, key=usual.count)))
    usual = [str(e.answer) for e in asked.train]
    found = probe(asked)
    assert (found.reward, found.correct, found.questions) == (1.0, 1.0, QUESTIONS)


def test_the_record_of_a_run_says_how_disjoint_it_is_and_what_junk_is_paid() -> None:
    row = describe(task("ransom_note"))
    assert row["train"] == 60
    assert row["held_out"] == 10
    assert row["disjoint_by_problem"] is False
    assert len(row["sentences"]) == 2
    assert row["constant_answer"]["reward"] > 0.4
