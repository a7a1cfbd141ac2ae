"""Golden anchors, not laws: two numbers by hand for a sampler's weight on the advantage, and for the mistake it prevents.

That a weight on an advantage is a weight on its part of the loss is a law of the kit.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.cases import CASES, Batch, core_loss
from support.libraries import NUMPY

from gspo_core import Padded, policy_loss, sampler_weight
from gspo_core.mismatch import MIS


def test_it_neither_moves_the_clip_range_nor_is_clipped() -> None:
    """s = 1.5 beyond 1.2, A = 1, w = 1.8 (a sampler that gave 1/1.8 of the probability): gain 1.8 · 1.2, by hand."""
    old, mask = np.zeros((1, 1)), np.ones((1, 1), dtype=bool)
    w = sampler_weight(MIS, old, old - np.log(1.8), Padded(mask))
    batch = Batch(np.full((1, 1), np.log(1.5)), old, mask, np.ones(1), np.ones((1, 1)), 0.2, 0.2)
    for case in CASES:
        loss = core_loss(NUMPY, batch.with_clip(case.preset), batch, batch.advantage * w.weight)
        assert loss.value == pytest.approx(-1.8 * 1.2)
        assert not loss.logp_grad.any()


def test_the_weight_inside_the_clip_would_be_another_loss() -> None:
    """The mistake that separate arguments prevent: π/π_sampler in the place of π/π_old is clipped as a whole."""
    old, mask, advantage = np.zeros((1, 1)), np.ones((1, 1), dtype=bool), np.ones(1)
    sampler = old - np.log(1.8)
    w = sampler_weight(MIS, old, sampler, Padded(mask))
    right = policy_loss(CASES[0].preset, old, old, advantage * w.weight, Padded(mask))
    wrong = policy_loss(CASES[0].preset, old, sampler, advantage, Padded(mask))
    assert right.logp_grad[0, 0] == pytest.approx(-1.8)
    assert wrong.logp_grad[0, 0] == 0
