"""Checking losses, advantages and clip fractions: which functions are accepted, and that our own keep the laws."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import Tensor

from gspo_core import GSPO, Packed, Padded, group_advantages, laws, policy_loss
from gspo_core.advantages import Centred, LeaveOneOut, ZScore
from gspo_core.laws.mutants import gspo
from gspo_core.laws.mutants.mutant import LIKE, LIKE_GRPO


@pytest.mark.slow
@pytest.mark.parametrize("like", [ZScore(), ZScore(1, 1e-4), Centred(), LeaveOneOut()], ids=str)
def test_our_group_advantages_keep_their_laws(like: object) -> None:
    report = laws.check_advantages(lambda rewards, ids: group_advantages(rewards, ids, like), like)
    assert not report.broken, str(report)


@pytest.mark.slow
def test_in_torch_too() -> None:
    assert laws.check_advantages(group_advantages, convert=torch.tensor, examples=20).ok


@pytest.mark.slow
def test_a_normaliser_is_not_another() -> None:
    broken = laws.check_advantages(group_advantages, Centred()).broken
    assert [v.law.name for v in broken] == ["the advantages are those of the stated normaliser"]


@pytest.mark.parametrize(("like", "per_token"), [(LIKE, False), (LIKE_GRPO, True)], ids=["responses", "tokens"])
def test_the_clip_fraction_of_our_losses(like: object, per_token: bool) -> None:
    def fraction(logp: np.ndarray, old: np.ndarray, advantage: np.ndarray, mask: np.ndarray) -> float:
        clipped = policy_loss(like, logp, old, advantage, Padded(mask)).clipped
        return clipped.sum() / (mask.sum() if per_token else mask.any(axis=1).sum())

    report = laws.check_clip_fraction(fraction, like, per_token=per_token)
    assert not report.broken, str(report)


@pytest.mark.slow
def test_a_packed_loss_keeps_the_laws_of_padded_ones() -> None:
    def packed(logp: object, old: object, advantage: object, segment_ids: object, num_sequences: int) -> object:
        return policy_loss(LIKE, logp, old, advantage, Packed(segment_ids, num_sequences))

    report = laws.check(laws.as_padded(packed), LIKE, examples=8)
    assert not report.broken, str(report)
    assert "a response does not change the gradients of the others" in {v.law.name for v in report.kept}


def torch_gspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5 in PyTorch."""
    d = torch.where(mask, logp, 0) - torch.where(mask, old_logp, 0)
    s = (d.sum(-1) / mask.sum(-1).clamp(min=1)).clamp(max=50).exp()
    gain = torch.minimum(s * advantage, s.clamp(0.8, 1.3) * advantage)
    return -torch.where(mask.any(-1), gain, 0).sum() / mask.any(-1).sum().clamp(min=1)


def torch_detached(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """A mutant: the ratio is detached."""
    return torch_gspo(logp.detach(), old_logp, advantage, mask) + 0 * logp.nan_to_num().sum()


@pytest.mark.slow
def test_a_torch_loss_is_recognised_and_differentiated_by_autograd() -> None:
    report = laws.check(torch_gspo, LIKE, examples=6)
    assert report.framework == "torch"
    names = {v.law.name for v in report.wrong}
    # exp is guarded by a clamp here, so that the loss is flat beyond e⁵⁰; nothing else is wrong with it.
    assert names == set(), str(report)
    assert "the gradient is the derivative of the value" in {v.law.name for v in report.kept}
    assert "the gradient is the derivative of the value" in {
        v.law.name for v in laws.check(torch_detached, LIKE, examples=6).wrong
    }


@pytest.mark.slow
def test_a_loss_with_keywords_and_another_order() -> None:
    def trainer_loss(advantages: object, log_prob: object, response_mask: object, old_log_prob: object) -> tuple:
        return gspo(log_prob, old_log_prob, advantages, response_mask > 0), {"metric": 1.0}

    names = laws.Names("log_prob", "old_log_prob", "advantages", "response_mask", float_mask=True)
    assert laws.check(trainer_loss, LIKE, names=names, examples=5).ok


def test_what_cannot_be_called_is_refused_with_the_reasons() -> None:
    with pytest.raises(TypeError, match=r"logp, old_logp, advantage, mask.*\n.*numpy"):
        laws.check(lambda x: x)
    with pytest.raises(TypeError, match="expected an Objective or a function"):
        laws.check(3)


def test_an_objective_is_like_itself() -> None:
    assert laws.check(GSPO, examples=2).like == "GSPO"


def test_the_signature_of_check_is_readable() -> None:
    """A tuple of all laws as a default would print 15 kB in help()."""
    for function in (laws.check, laws.check_advantages, laws.check_clip_fraction):
        assert len(str(inspect.signature(function))) < 600


def test_names_in_reach_of_completion_are_the_public_ones() -> None:
    assert sorted(dir(laws)) == sorted(laws.__all__)
