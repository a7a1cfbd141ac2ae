"""What OpenRLHF's PolicyLoss is given and ours could drop on the way: corrections, unknown options, steps without a token."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from gspo_torch.trainers.openrlhf import PolicyLoss, policy_loss_class
from support.trainers.rows_in_torch import Rows, graded, rows, same

from gspo_core import GSPO, GSPO_TOKEN, TIS, Objective
from gspo_core.mismatch import GEO_RS, Correction, GeometricWeight, Mask, Reject, TokenWeight
from gspo_core.objectives import DAPO


def call(module: Any, batch: Rows, **step: Any) -> Any:
    """As OpenRLHF's actor does."""
    return module(batch.logp, batch.old, batch.advantages, action_mask=batch.mask.double(), **step)


def test_a_correction_without_the_sampler_s_log_probs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^rollout_log_probs: expected the sampler's, since there is a Correction"):
        call(PolicyLoss(GSPO_TOKEN, TIS), rows(1))


@pytest.mark.parametrize("correction", [GEO_RS, Correction(TokenWeight(), Mask(0.5, 2.0, drop=True))], ids=str)
def test_a_correction_that_drops_is_refused(correction: Correction) -> None:
    """OpenRLHF has counted the step before: what is dropped would stay in the denominator."""
    with pytest.raises(ValueError, match=r"^correction: expected one with drop=False, since OpenRLHF's count of the step"):
        policy_loss_class(GSPO_TOKEN, correction)()


def test_the_share_that_a_filter_takes_out() -> None:
    """A filter's weights are 0 and 1, whatever the raw weights are."""
    batch = rows(3)
    own = (batch.old - batch.sampler)[0]
    kept = math.exp(abs(float(own[batch.mask[0]].mean()))) * 1.001
    correction = Correction(GeometricWeight(), Reject(1 / kept, kept, drop=False))
    means = [float((batch.old - batch.sampler)[i][m].mean()) for i, m in enumerate(batch.mask) if m.any()]
    out = sum(abs(x) > math.log(kept) for x in means) / len(means)
    assert 0 < out < 1
    assert float(call(PolicyLoss(GSPO, correction), batch, rollout_log_probs=batch.sampler)[4]) == pytest.approx(out)


@pytest.mark.parametrize("objective", [GSPO, DAPO], ids=["GSPO", "DAPO"])
@pytest.mark.parametrize("zero", [0, 0.0, torch.zeros(())], ids=str)
def test_a_step_without_a_token(objective: Objective, zero: Any) -> None:
    """Its loss and gradient are 0, where 0/0 would be NaN, whatever stands in masked slots."""
    batch = rows(2)
    batch.mask[:] = False
    batch.old[:] = torch.nan
    step = {"dp_size": 2, "batch_num_tokens": zero, "global_batch_size": zero}
    value, gradient = graded(lambda x: call(PolicyLoss(objective), x, **step)[0], batch)
    assert value == 0.0
    assert not gradient.any()


UNKNOWN: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "clip_eps: expected an option of OpenRLHF's PolicyLoss": ({"clip_eps": 0.1}, TypeError),
    "objective: expected an Objective such as gspo_core.GSPO, got 'gspo'": ({"objective": "gspo"}, TypeError),
    "correction: expected a Correction such as gspo_core.TIS, got 'TIS'": ({"correction": "TIS"}, TypeError),
}


@pytest.mark.parametrize("words", UNKNOWN)
def test_what_openrlhf_does_not_have_is_refused(words: str) -> None:
    options, error = UNKNOWN[words]
    with pytest.raises(error, match=f"^{words}"):
        PolicyLoss(**options)
    assert PolicyLoss(is_correction_mode="clip", is_correction_threshold=(0.5, 5.0)).objective == GSPO.with_clip(0.2, 0.2)


def test_a_copy_computes_the_same() -> None:
    """The class that replaces OpenRLHF's, and the module that it makes, go to other processes."""
    made = policy_loss_class(GSPO, Correction(GeometricWeight(), Mask(0.5, 2.0, drop=False)))
    batch, module = rows(1), made(clip_eps_low=0.1)

    def of(module: Any) -> Any:
        return graded(lambda x: call(module, x, rollout_log_probs=batch.sampler)[0], batch)

    copies = (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), pickle.loads(pickle.dumps(made))(clip_eps_low=0.1))
    assert all(same(of(other), of(module)) for other in copies)
