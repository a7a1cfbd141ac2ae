"""Wrong answers that a verifier of reasoning-gym pays for score 0; right ones score as before."""

from __future__ import annotations

import cmath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.rewards.holes import non_finite, passes
from integration.rewards.sources import GymSource, judge

NO_NUMBERS = ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e999", "-1e400", "nan+nanj", "1 + nani", "infi", "[nan, 1]"]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_an_answer_that_is_no_finite_number_is_worth_nothing(text: str) -> None:
    source = GymSource("complex_arithmetic", {}, 0, 3)
    task, entry = source.open(), source.dataset()[0]
    assert judge(task, entry, text) == (0.0, "")
    assert judge(task, entry, entry["answer"]) == (1.0, "")


def test_a_game_of_life_that_does_not_halt_is_not_answered_by_anything() -> None:
    source = GymSource("game_of_life_halting", {}, 0, 20)
    task, dataset = source.open(), source.dataset()
    entries = [dataset[i] for i in range(20)]
    kinds = {str(e["answer"]) for e in entries}
    assert kinds == {"True", "False"}
    for entry in entries:
        right = str(entry["answer"])
        wrong = "False" if right == "True" else "True"
        assert [judge(task, entry, text).score for text in (right, wrong, "", "anything", "yes")] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_the_beginning_of_a_probability_is_not_the_probability() -> None:
    """coin_flip took "0" for every one below 1: 88 % of its questions."""
    source = GymSource("coin_flip", {}, 0, 30)
    task, dataset = source.open(), source.dataset()
    entries = [dataset[i] for i in range(30)]
    assert all(judge(task, entry, entry["answer"]) == (1.0, "") for entry in entries)
    for entry in entries:
        numerator, denominator = entry["metadata"]["rational"].values()
        assert judge(task, entry, f"{numerator}/{denominator}").score == 1.0
        if numerator / denominator > 2e-4:
            assert judge(task, entry, "0").score < 0.4


def test_a_word_that_reads_as_no_number_is_right_where_it_is_the_solution() -> None:
    assert passes("spell_backward", {"answer": "nan"}, "nan")
    assert not passes("spell_backward", {"answer": "not"}, "nan")


@given(st.complex_numbers(), st.sampled_from(["j", "i"]))
def test_a_number_is_finite_or_not_as_it_was_before_it_was_written_down(number: complex, unit: str) -> None:
    text = f"{number.real!r} {'+' if cmath.phase(complex(0, number.imag)) >= 0 else '-'} {abs(number.imag)!r}{unit}"
    assert non_finite(text) == (not cmath.isfinite(number))


@given(st.text(alphabet="abcdef ,[]()\n.", max_size=20), st.sampled_from(["is", "bread", "a plan"]))
def test_prose_is_never_mistaken_for_numbers(text: str, word: str) -> None:
    assert not non_finite(f"nan {word} {text}")
