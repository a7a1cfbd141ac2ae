"""What a rejected token or sequence does to lengths and denominators is what the action says; layouts agree."""

from __future__ import annotations

from typing import Any

import gspo_torch
import numpy as np
import pytest
import torch
from support.budgets import assert_close64
from support.cases import Batch
from support.libraries import Library

from gspo_core import GRPO, GSPO, TIS, Packed, Padded, PerToken, policy_loss, sampler_weight
from gspo_core.mismatch import MIS, Correction, GeometricWeight, Mask, ProductWeight, Reject, TokenWeight, Truncate

by_level = pytest.mark.parametrize("level", [TokenWeight(), ProductWeight(), GeometricWeight()], ids=repr)


def rejecting_batch() -> Batch:
    """Token weights (1, 3, 1), (1, 1), (9, 9): one token of the first response and all of the last are beyond 2."""
    mask = np.array([[True, True, True], [True, True, False], [False, True, True]])
    gaps = np.log([[1.0, 3.0, 1.0], [1.0, 1.0, 1.0], [1.0, 9.0, 9.0]])
    return Batch(-gaps, np.zeros((3, 3)), mask, np.array([1.0, -1.0, 1.0]), np.ones((3, 3)), 0.2, 0.2)


def test_what_is_rejected_counts_or_does_not_as_the_action_says(library: Library) -> None:
    """|y_i|, the batch's own denominator and hence every weight, by hand; tokens first, then whole sequences."""
    batch = rejecting_batch()
    old, adv = library.array(batch.old_logp), library.array(batch.advantage)
    expected = {
        (TokenWeight(), False): ([3, 2, 2], [[-1 / 9, 0, -1 / 9], [1 / 6, 1 / 6, 0], [0, 0, 0]]),
        (TokenWeight(), True): ([2, 2, 0], [[-1 / 4, 0, -1 / 4], [1 / 4, 1 / 4, 0], [0, 0, 0]]),
        (GeometricWeight(), False): ([3, 2, 2], [[-(3 ** (1 / 3)) / 9] * 3, [1 / 6, 1 / 6, 0], [0, 0, 0]]),
        (GeometricWeight(), True): ([3, 2, 0], [[-(3 ** (1 / 3)) / 6] * 3, [1 / 4, 1 / 4, 0], [0, 0, 0]]),
    }
    for (level, drop), (lengths, grads) in expected.items():
        w = sampler_weight(
            Correction(level, Mask(0.5, 2.0, drop=drop)),
            old,
            library.array(batch.logp),
            Padded(library.array(batch.mask)),
        )
        assert library.numpy(w.layout.lengths()).tolist() == lengths
        weighted = w.layout.spread(adv) * w.weight if level.per_token else adv * w.weight
        loss = policy_loss(GRPO if level.per_token else GSPO, old, old, weighted, w.layout)
        assert_close64(library.numpy(loss.logp_grad), grads)


@pytest.mark.parametrize("action", [Truncate(2.0), Mask(0.5, 2.0, drop=True)], ids=repr)
@by_level
def test_packed_and_padded_agree(library: Library, level: Any, action: Any) -> None:
    batch = rejecting_batch()
    arrays = [library.array(x) for x in (batch.old_logp, batch.logp)]
    padded = sampler_weight(Correction(level, action), *arrays, Padded(library.array(batch.mask)))
    where = batch.mask.ravel()
    ids = np.where(where, np.repeat(np.arange(3), 3), -1)
    packed = sampler_weight(
        Correction(level, action),
        library.array(batch.old_logp.ravel()),
        library.array(batch.logp.ravel()),
        Packed(library.array(ids), 3),
    )
    assert_close64(library.numpy(packed.weight), library.numpy(padded.weight).ravel())
    assert library.numpy(packed.kept).tolist() == library.numpy(padded.kept).ravel().tolist()
    assert library.numpy(packed.layout.lengths()).tolist() == library.numpy(padded.layout.lengths()).tolist()
    if level.per_token:
        tokens = PerToken(packed.layout.spread(library.array(batch.advantage)) * packed.weight)
        old = library.array(batch.old_logp.ravel())
        loss = policy_loss(GRPO, old, old, tokens, packed.layout)
        assert np.isfinite(library.numpy(loss.value))


def test_truncation_leaves_the_layout_alone() -> None:
    layout = Padded(np.ones((1, 2), dtype=bool))
    assert sampler_weight(TIS, np.zeros((1, 2)), np.ones((1, 2)), layout).layout is layout


def test_no_gradient_reaches_the_log_probs_it_is_made_of() -> None:
    """PyTorch, through gspo_torch: the old and the sampler's log-probs are data."""
    old, sampler, logp = (torch.full((2, 3), x, dtype=torch.float64, requires_grad=True) for x in (-1.0, -1.1, -1.05))
    layout = Padded(torch.ones((2, 3), dtype=torch.bool))
    w = sampler_weight(MIS, old, sampler, layout)
    advantage = torch.tensor([1.0, -1.0], dtype=torch.float64) * w.weight
    loss = gspo_torch.policy_loss(GSPO, logp, old, advantage, layout)
    found = torch.autograd.grad(loss.value, (logp, old, sampler), allow_unused=True)
    assert found[0] is not None
    assert found[1:] == (None, None)


@pytest.mark.parametrize("objective", [GSPO, GRPO], ids=["GSPO", "GRPO"])
def test_a_layout_that_lost_tokens_goes_through_autograd(objective: Any) -> None:
    """gspo_torch takes what the correction leaves, whatever the levels."""
    batch = rejecting_batch()
    old, sampler = torch.tensor(batch.old_logp), torch.tensor(batch.logp)
    w = sampler_weight(Correction(TokenWeight(), Reject(0.5, 2.0, drop=True)), old, sampler, Padded(torch.tensor(batch.mask)))
    logp = old.clone().requires_grad_()
    loss = gspo_torch.policy_loss(objective, logp, old, torch.tensor(batch.advantage), w.layout)
    loss.value.backward()
    assert_close64(logp.grad.numpy(), [[-1 / 4, 0, -1 / 4], [1 / 4, 1 / 4, 0], [0, 0, 0]])
