"""OpenRLHF's PolicyLoss and ours in its place: the same where it computes the objective, the paper's otherwise."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest
import torch
from gspo_torch.trainers.openrlhf import PolicyLoss, policy_loss_class
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.paper import paper
from support.trainers.rows_in_torch import CUTS, Rows, graded, rows, same, summed

from gspo_core import GRPO, GSPO, GSPO_TOKEN, TIS, Objective
from gspo_core.mismatch import Correction, Mask, TokenWeight
from gspo_core.objectives import CISPO, DAPO, PRESETS
from integration.wild.definitions import definitions

GIVEN: dict[str, Any] = {"torch": torch, "nn": torch.nn, "Optional": typing.Optional}
GIVEN |= definitions("openrlhf", "openrlhf/models/utils.py", ["masked_mean"], GIVEN)
OWN = definitions("openrlhf", "openrlhf/models/loss.py", ["aggregate_loss", "PolicyLoss"], GIVEN)["PolicyLoss"]
"""OpenRLHF's own, from its text: its package imports flash-attn."""
SAME: dict[str, tuple[Objective, dict[str, Any]]] = {
    "defaults": (DAPO.with_clip(0.2, 0.2), {}),
    "gspo": (GSPO, {"policy_loss_type": "gspo"}),
    "gspo, the paper's range": (GSPO, {"policy_loss_type": "gspo", "clip_eps_low": 3e-4, "clip_eps_high": 4e-4}),
    "seq-mean-token-mean": (GRPO, {"token_level_loss": False}),
}
STEP = {"dp_size": 2, "batch_num_tokens": 17.0, "global_batch_size": 6.0}
"""What the trainer passes: totals of two ranks, of which one has the micro-batches here."""


def call(module: Any, step: dict[str, Any], rollout: bool = False) -> Any:
    """As the actor calls it, its loss alone."""

    def loss(batch: Rows) -> Any:
        engine = {"rollout_log_probs": batch.sampler} if rollout else {}
        return module(batch.logp, batch.old, batch.advantages, action_mask=batch.mask.double(), **engine, **step)[0]

    return loss


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("case", SAME)
@given(seed=st.integers(0, 1000))
def test_with_openrlhf_s_options_it_is_openrlhf_s_loss(case: str, cut: str, seed: int) -> None:
    """1e-8, its ε in the length: several micro-batches on one of two ranks, with an empty row."""
    objective, options = SAME[case]
    step = STEP if cut != "whole" else {}
    theirs, ours = (summed(call(kind(**options), step), cut, rows(seed)) for kind in (OWN, policy_loss_class(objective)))
    assert same(theirs, ours, 1e-7)


@pytest.mark.parametrize("cut", ["three", "uneven"])
@pytest.mark.parametrize("preset", PRESETS)
def test_micro_batches_and_ranks_add_up_to_the_paper(preset: str, cut: str) -> None:
    """Each rank sees all rows here: the mean over the two is the loss of the whole, 5 responses and 17 tokens."""
    batch, objective = rows(7), PRESETS[preset]
    clip = {"clip_eps_low": objective.surrogate.low, "clip_eps_high": objective.surrogate.high} if ranged(objective) else {}
    step = {"dp_size": 2, "batch_num_tokens": 17.0, "global_batch_size": 5.0}
    one = summed(call(PolicyLoss(objective, **clip), step), cut, batch, ranks=2)
    exact = paper(preset, batch.logp, batch.old, batch.advantages, batch.mask)
    assert same(one, exact, 1e-9 * (1 + abs(exact.value)))


def ranged(objective: Objective) -> bool:
    """Whether it has a clip range."""
    return hasattr(objective.surrogate, "low") and hasattr(objective.surrogate, "high")


@given(seed=st.integers(0, 1000))
def test_a_sampler_s_weights_are_openrlhf_s(seed: int) -> None:
    """is_correction_level=token, clip and mask, at the level of PPO, where OpenRLHF multiplies by them."""
    batch = rows(seed, sampler=1.5)
    options = {"is_correction_level": "token", "is_correction_threshold": (0.0, 2.0)}
    for mode, correction in (("clip", TIS), ("mask", Correction(TokenWeight(), Mask(0.0, 2.0, drop=False)))):
        own = OWN(**options, is_correction_mode=mode)
        ours = PolicyLoss(DAPO, correction)
        assert same(graded(call(own, {}, True), batch), graded(call(ours, {}, True), batch))
        theirs, mine = (x(*batch[:2], batch.advantages, batch.mask.double(), batch.sampler) for x in (own, ours))
        first = 1 if mode == "clip" else 2  # its clip_ratio counts tokens that the mask has taken out
        for one, other in zip(theirs[first:], mine[first:], strict=True):
            assert float(one) == pytest.approx(float(other), abs=1e-6)
        assert 0 < mine[4] < 1


def test_what_is_logged_is_openrlhf_s() -> None:
    """Shares of tokens, and its sign of the KL."""
    for objective, options in SAME.values():
        theirs, ours = (
            kind(**options)(*rows(3)[:2], rows(3).advantages, rows(3).mask.double())[1:]
            for kind in (OWN, policy_loss_class(objective))
        )
        assert theirs[2:] == ours[2:] == (None, None)
        assert torch.allclose(torch.stack(theirs[:2]), torch.stack(ours[:2]))


REFUSED = {
    "loss_agg_mode: expected seq-mean-token-mean": (GSPO, {"token_level_loss": True}),
    "loss_agg_mode: expected token-mean": (DAPO, {"token_level_loss": False}),
    "dual_clip: expected None": (GSPO, {"dual_clip": 3.0}),
    "is_correction_level: expected off": (GSPO, {"is_correction_level": "seq"}),
    "eps_clip_low_high: expected the default 0.2": (CISPO, {"clip_eps_low": 0.1}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_another_objective_s_options_are_refused(words: str) -> None:
    objective, options = REFUSED[words]
    with pytest.raises(ValueError, match=words):
        PolicyLoss(objective, **options)


def test_token_advantages_want_a_ratio_of_tokens() -> None:
    batch = rows(0)
    batch.advantages[0, 1] += 1.0
    assert torch.isfinite(call(PolicyLoss(GSPO_TOKEN), {})(batch))
    with pytest.raises(ValueError, match="advantages: expected one number per response"):
        call(PolicyLoss(GSPO), {})(batch)


def test_every_option_and_argument_of_this_version_is_known() -> None:
    """A new one fails here."""
    correction = {"is_correction_level", "is_correction_mode", "is_correction_gating", "is_correction_threshold"}
    known = {"clip_eps_low", "clip_eps_high", "token_level_loss", "policy_loss_type", "dual_clip", *correction}
    assert set(inspect.signature(OWN.__init__).parameters) - {"self"} == known
    assert list(inspect.signature(OWN.forward).parameters) == list(inspect.signature(PolicyLoss.forward).parameters)
