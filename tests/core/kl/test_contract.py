"""A KL term knows nothing of an objective, and refuses what is wrong with a sentence that names it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from support.libraries import TORCH

from gspo_core import Padded, SequenceMean, TokenKL, TokenMean, kl_penalty
from gspo_core.kl import K3, SequenceKL
from gspo_core.objectives import TurnMean


def test_the_term_cannot_depend_on_the_objective() -> None:
    """Nothing of it goes in: changing the level of the ratio leaves the KL term as it is."""
    arguments = set(inspect.signature(kl_penalty).parameters)
    assert not arguments & {"objective", "ratio", "advantage", "surrogate", "gate"}


A, LAYOUT = np.zeros((2, 3)), Padded(np.ones((2, 3), dtype=bool))
HALF, MEAN, TOKENS = A.astype(np.float16), {"reduction": SequenceMean()}, {"reduction": TokenMean()}
GOOD = (K3(), A, A, LAYOUT)
WRONG: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
    (TypeError, r"^estimator: expected a value, got the class K3; write K3\(\.\.\.\)", (K3, A, A, LAYOUT), MEAN),
    (TypeError, r"^reduction: expected a value, got the class TokenMean; write", GOOD, {"reduction": TokenMean}),
    (TypeError, r"^reduction: TokenMean.* Use SequenceMean\(\), or TokenKL\(\)", (SequenceKL(), A, A, LAYOUT), TOKENS),
    (
        TypeError,
        r"^reduction: TurnMean\(\) weighs turns, but SequenceKL",
        (SequenceKL(), A, A, LAYOUT),
        {"reduction": TurnMean()},
    ),
    (ValueError, r"^old_logp: TokenKL\(.*pass its log-probs \(on policy: those of logp\)", (TokenKL(), A, A, LAYOUT), MEAN),
    (ValueError, r"^old_logp: K3\(.*does not use it; leave it out", GOOD, {**MEAN, "old_logp": A}),
    (TypeError, r"^layout: expected a layout such as Padded\(mask\), got ndarray", (K3(), A, A, A > 0), MEAN),
    (TypeError, r"^ref_logp: expected an array, got float", (K3(), A, 0.0, LAYOUT), MEAN),
    (ValueError, r"^ref_logp: expected the layout's shape \[2, 3\], got \[2, 1\]", (K3(), A, A[:, :1], LAYOUT), MEAN),
    (TypeError, r"^logp: expected float32 or float64, got float16, .*allow_low_precision", (K3(), HALF, A, LAYOUT), MEAN),
    (TypeError, r"^ref_logp: expected real floating-point log-probs, got dtype bool", (K3(), A, A > 0, LAYOUT), MEAN),
    (ValueError, r"^denominator: expected a positive finite number, got 0", GOOD, {**MEAN, "denominator": 0}),
    (ValueError, r"^denominator: expected a number or a \[\] array", GOOD, {**MEAN, "denominator": np.ones(2)}),
    (TypeError, r"^ref_logp: expected an array of one library with .*, got torch", (K3(), A, TORCH.array(A), LAYOUT), MEAN),
]


@pytest.mark.parametrize(("kind", "sentence", "arguments", "options"), WRONG, ids=[w[1][1:50] for w in WRONG])
def test_wrong_arguments_are_named(kind: type[Exception], sentence: str, arguments: tuple[Any, ...], options: dict) -> None:
    with pytest.raises(kind, match=sentence):
        kl_penalty(*arguments, **options)
