"""The words that stand in the command line's own file are those of the tables behind them, in the same order."""

from __future__ import annotations

from typing import get_args

import pytest

from integration.options.choices import CORRECTIONS, KL_ESTIMATORS, OBJECTIVES
from integration.options.errors import UserError
from integration.options.words import OBJECTIVE_WORDS, CorrectionName, KLName, require_objective


def test_every_word_stands_for_something_and_everything_has_a_word() -> None:
    assert tuple(OBJECTIVES) == OBJECTIVE_WORDS
    assert tuple(CORRECTIONS) == get_args(CorrectionName)
    assert tuple(KL_ESTIMATORS) == get_args(KLName)


@pytest.mark.parametrize("word", ["", "GSPO", "gspo ", "ppo", "my_loss", "gspo:X", ".pyc", "my_loss.py.gz"])
def test_another_word_is_refused_with_those_that_are_spelled_alike(word: str) -> None:
    with pytest.raises(UserError, match=r"^--objective: expected gspo, gspo-token, .*, ipo or FILE.py:NAME, got"):
        require_objective(word)


@pytest.mark.parametrize("word", [*OBJECTIVE_WORDS, "my_loss.py", "a folder/my_loss.py:MINE"])
def test_a_preset_and_a_file_of_ones_own_go_through(word: str) -> None:
    require_objective(word)
