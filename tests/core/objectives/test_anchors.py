"""The core gives the numbers that are computed by hand from the papers."""

from __future__ import annotations

import numpy as np
import pytest
from support.budgets import assert_close64, assert_within
from support.inputs.hand_numbers import HAND, LOGP, MASK, OLD
from support.libraries import Library

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, Padded, policy_loss


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
