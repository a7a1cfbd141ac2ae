"""A reward that is no number shows in its own group's advantages, and in no other's."""

from __future__ import annotations

import numpy as np
import pytest
from support.libraries import Library

from gspo_core import group_advantages
from gspo_core.advantages import Centred, LeaveOneOut, ZScore
from gspo_core.advantages.normalisers import Normaliser


@pytest.mark.parametrize("reward", [np.nan, np.inf])
@pytest.mark.parametrize("normaliser", [ZScore(), Centred(), LeaveOneOut()], ids=repr)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # ∞ − ∞ is the point
def test_a_broken_verifier_is_not_silently_a_zero_advantage(library: Library, normaliser: Normaliser, reward: float) -> None:
    rewards, ids = np.array([reward, 1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 0, 1, 1])
    out = library.numpy(group_advantages(library.array(rewards), library.array(ids), normaliser))
    assert np.isnan(out[:3]).all()
    assert np.isfinite(out[3:]).all()
