"""The words that options take. They stand here by themselves, so that the command line is read before anything is imported.

What each one stands for is in `choices.py`, which imports the core."""

from __future__ import annotations

import difflib
from typing import Literal

from integration.options.errors import UserError

PromptStyle = Literal["chat", "plain"]
TrackerName = Literal["none", "wandb", "trackio"]
CorrectionName = Literal["none", "tis", "icepop", "mis", "sequence-tis", "reject-mean", "reject-absolute", "reject-k3", "veto"]
KLName = Literal["none", "k1", "k2", "k3", "abs", "token", "sequence", "sequence-k2"]
OBJECTIVE_WORDS = (
    *("gspo", "gspo-token", "gate-only-gspo", "luspo", "gmpo", "fspo", "vespo", "grpo", "dr-grpo", "dapo", "bnpo", "cispo"),
    *("sapo", "aspo", "deepseek-v3-2", "dppo", "ipo"),
)
"""Every preset of the core, in small letters."""


def require_objective(word: str) -> None:
    """UserError, with those that are spelled alike, unless it is a preset or names a Python file."""
    if word in OBJECTIVE_WORDS or word.partition(":")[0].endswith(".py"):
        return
    close = difflib.get_close_matches(word, OBJECTIVE_WORDS, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UserError(f"--objective: expected {', '.join(OBJECTIVE_WORDS)} or FILE.py:NAME, got {word}{hint}")
