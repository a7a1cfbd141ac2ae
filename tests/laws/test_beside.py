"""The laws of advantages, clip fractions and packed losses hold of our own, and of nothing else that is near."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gspo_core import Packed, Padded, group_advantages, laws, policy_loss
from gspo_core.advantages import Centred, LeaveOneOut, ZScore
from gspo_core.laws.mutants.mutant import LIKE, LIKE_GRPO


@pytest.mark.parametrize("like", [ZScore(), ZScore(1, 1e-4), Centred(), LeaveOneOut()], ids=str)
def test_our_group_advantages_keep_their_laws(like: object) -> None:
    report = laws.check_advantages(lambda rewards, ids: group_advantages(rewards, ids, like), like)
    assert report.ok, str(report)


def test_in_torch_too() -> None:
    assert laws.check_advantages(group_advantages, convert=torch.tensor, examples=20).ok


def test_a_normaliser_is_not_another() -> None:
    broken = laws.check_advantages(group_advantages, Centred()).broken
    assert [v.law.name for v in broken] == ["advantages are those of the stated normaliser"]


@pytest.mark.parametrize(("like", "per_token"), [(LIKE, False), (LIKE_GRPO, True)], ids=["responses", "tokens"])
def test_the_clip_fraction_of_our_losses(like: object, per_token: bool) -> None:
    def fraction(logp: np.ndarray, old: np.ndarray, advantage: np.ndarray, mask: np.ndarray) -> float:
        clipped = policy_loss(like, logp, old, advantage, Padded(mask)).clipped
        return clipped.sum() / (mask.sum() if per_token else mask.any(axis=1).sum())

    report = laws.check_clip_fraction(fraction, like, per_token=per_token)
    assert report.ok, str(report)


def test_a_packed_loss_keeps_the_laws_of_padded_ones() -> None:
    def packed(logp: object, old: object, advantage: object, segment_ids: object, num_sequences: int) -> object:
        return policy_loss(LIKE, logp, old, advantage, Packed(segment_ids, num_sequences))

    report = laws.check(laws.as_padded(packed), LIKE, examples=15)
    assert report.ok, str(report)
    assert "responses do not see each other" in {v.law.name for v in report.kept}
