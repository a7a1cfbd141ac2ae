"""Golden anchors, not laws: a few numbers computed by hand from the papers, on which all else hangs.

Two sequences, of 2 and 1 tokens, clip range (0.2, 0.3). Token ratios 2 and 1/2 in the first, 2 in the second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.budgets import assert_close64, assert_within
from support.libraries import Library

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, Padded, SequenceToken, TokenMean, policy_loss
from gspo_core.laws.kit.oracle import judge

LOG2 = 0.6931471805599453
OLD = np.array([[-1.0, -1.0], [-1.0, np.nan]])
LOGP = OLD + np.array([[LOG2, -LOG2], [LOG2, 0.0]])
MASK = np.array([[True, True], [True, False]])
WIDE = Clip(0.2, 0.3)

# (objective, advantage per sequence, value, weight, clipped units), by hand:
# GSPO: s = (1, 2). A = (1, −1): gains (1, −2); nothing is clipped: for A < 0 only the lower bound exists.
#   A = (−1, 1): gains (−1, 1.3), the second is clipped.
# GRPO: w = ((2, ½), (2)). A = (1, −1): gains ((1.3, ½), (−2)), mean (0.9, −2). A = (−1, 1): ((−2, −0.8), (1.3)).
HAND = [
    ("GSPO", replace(GSPO, surrogate=WIDE), [1, -1], 0.5, [[-0.25, -0.25], [1.0, 0.0]], [False, False]),
    ("GSPO clipped", replace(GSPO, surrogate=WIDE), [-1, 1], -0.15, [[0.25, 0.25], [0.0, 0.0]], [False, True]),
    (
        "GSPO_TOKEN",
        replace(GSPO_TOKEN, surrogate=WIDE),
        [1, -1],
        0.5,
        [[-0.25, -0.25], [1.0, 0.0]],
        [[False, False], [False, False]],
    ),
    (
        "GRPO",
        GRPO.__class__(GRPO.ratio, WIDE, GRPO.reduction),
        [1, -1],
        0.55,
        [[0.0, -0.125], [1.0, 0.0]],
        [[True, False], [False, False]],
    ),
    ("GRPO clipped", replace(GRPO, surrogate=WIDE), [-1, 1], 0.05, [[0.5, 0.0], [0.0, 0.0]], [[False, True], [True, False]]),
    (
        "GRPO, TokenMean",
        replace(GRPO, surrogate=WIDE, reduction=TokenMean()),
        [1, -1],
        0.2 / 3,
        [[0, -0.5 / 3], [2 / 3, 0]],
        [[True, False], [False, False]],
    ),
    (
        "GSPO_TOKEN, TokenMean",
        Objective(SequenceToken(), WIDE, TokenMean()),
        [1, -1],
        0.0,
        [[-1 / 3, -1 / 3], [2 / 3, 0]],
        [[False, False], [False, False]],
    ),
]


@pytest.mark.parametrize(
    ("objective", "advantage", "value", "weight", "clipped"), [h[1:] for h in HAND], ids=[h[0] for h in HAND]
)
def test_the_core_gives_the_number_computed_by_hand(
    library: Library, objective: Objective, advantage: list, value: float, weight: list, clipped: list
) -> None:
    arrays = (library.array(x) for x in (LOGP, OLD, np.array(advantage, dtype=np.float64)))
    loss = policy_loss(objective, *arrays, Padded(library.array(MASK)))
    assert_close64(library.numpy(loss.value), value, 1.0)
    assert_close64(library.numpy(loss.logp_grad), weight, 1.0)
    assert library.numpy(loss.clipped).tolist() == clipped


@pytest.mark.parametrize(
    ("objective", "advantage", "value", "weight", "clipped"), [h[1:] for h in HAND], ids=[h[0] for h in HAND]
)
def test_the_oracle_gives_the_number_computed_by_hand(
    objective: Objective, advantage: list, value: float, weight: list, clipped: list
) -> None:
    tokens = [[a, a] for a in advantage]
    verdict = judge(objective, LOGP.tolist(), OLD.tolist(), tokens, MASK.tolist())
    assert_close64(verdict.value, value, 1.0)
    assert_close64(verdict.weight, weight, 1.0)
    assert verdict.clipped == clipped


def test_the_presets_are_the_papers_numbers() -> None:
    assert (GSPO.surrogate, GSPO_TOKEN.surrogate, GRPO.surrogate) == (Clip(3e-4, 4e-4), Clip(3e-4, 4e-4), Clip(0.2, 0.2))


def test_the_papers_clip_range_is_a_band_of_ratios(library: Library) -> None:
    """s = 1.00041 is clipped for A > 0, s = 1.00039 is not; s = 0.99969 is clipped for A < 0, s = 0.99971 is not."""
    logp = np.log([[1.00041], [1.00039], [0.99969], [0.99971]])
    arrays = (library.array(x) for x in (logp, np.zeros((4, 1)), np.array([1.0, 1.0, -1.0, -1.0])))
    loss = policy_loss(GSPO, *arrays, Padded(library.array(np.ones((4, 1), dtype=bool))))
    assert library.numpy(loss.clipped).tolist() == [True, False, True, False]
    assert_close64(library.numpy(loss.logp_grad)[:, 0], [0, -1.00039 / 4, 0, 0.99971 / 4], 1.0)
    assert_close64(library.numpy(loss.value), -(1.0004 + 1.00039 - 0.9997 - 0.99971) / 4, 1.0)


def test_a_clipped_gain_is_the_bound_times_the_advantage() -> None:
    value = Clip(0.2, 0.3)(np, np.log(np.array([2.0, 0.1])), np.array([10.0, -10.0])).value
    assert_within(value, [13.0, -8.0], 1e-11)
