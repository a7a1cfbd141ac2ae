"""torchrl's GRPOLoss and ours: the same where it computes the objective, the paper's otherwise."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gspo_torch.trainers.torchrl import REFUSED, GSPOLoss
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.paper import paper
from support.trainers.rows_in_torch import CUTS, LENGTHS, Rows, graded, rows, same, summed
from tensordict import TensorDict
from torchrl.objectives.llm import GRPOLoss

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective
from gspo_core.objectives import DAPO, PRESETS


class Given:
    """Log-probs of the batch in place of a model's; everything else is torchrl's."""

    def _get_cur_log_prob(self, tensordict: Any) -> Any:
        return tensordict["current"], SimpleNamespace(mask=tensordict["valid"]), False

    def _get_entropy(self, dist: Any, adv_shape: Any) -> Any:
        return torch.full((*dist.mask.shape, 1), 0.5, dtype=torch.float64) * dist.mask[..., None]


class Ours(Given, GSPOLoss):
    """This package's."""


class Own(Given, GRPOLoss):
    """torchrl's."""


def data(batch: Rows) -> TensorDict:
    """What torchrl's collectors write."""
    size = list(batch.mask.shape)
    return TensorDict(
        {
            "current": batch.logp,
            "valid": batch.mask,
            "advantage": batch.advantages[..., None],
            ("tokens", "full"): torch.zeros(size, dtype=torch.int64),
            ("log_probs", "full"): batch.old,
            ("next", "ref_log_probs", "full"): batch.sampler,
        },
        batch_size=size[:1],
    )


def objective_of(module: Any, batch: Rows) -> tuple[float, Any]:
    """Value and gradient of `loss_objective`."""
    return graded(lambda x: module(data(x)).loss_objective.sum(), batch)


OPTIONS: dict[str, Any] = {"entropy_bonus": False}
FULL = tuple(n or 4 for n in LENGTHS)


@given(seed=st.integers(0, 1000))
def test_with_torchrl_s_options_it_is_torchrl_s_loss(seed: int) -> None:
    """token_mean, its default, with an empty row; prompt_mean, which counts empty rows, without. Its bounds are float32."""
    own, ours = Own(**OPTIONS), Ours(objective=DAPO.with_clip(0.2, 0.2), **OPTIONS)
    assert same(objective_of(own, rows(seed)), objective_of(ours, rows(seed)), 1e-7)
    own = Own(aggregation="prompt_mean", clip_epsilon=(0.1, 0.3), **OPTIONS)
    ours = Ours(objective=GRPO.with_clip(0.1, 0.3), **OPTIONS)
    assert same(objective_of(own, rows(seed, FULL)), objective_of(ours, rows(seed, FULL)), 1e-7)


@pytest.mark.parametrize("preset", PRESETS)
@given(seed=st.integers(0, 1000))
def test_any_preset_is_its_paper(preset: str, seed: int) -> None:
    """Those that look at probabilities as well: torchrl keeps the current log-probs beside the log ratios."""
    batch = rows(seed)
    exact = paper(preset, batch.logp, batch.old, batch.advantages, batch.mask)
    assert same(objective_of(Ours(objective=PRESETS[preset], **OPTIONS), batch), exact, 1e-8 * (1 + abs(exact.value)))


@pytest.mark.parametrize("cut", CUTS)
def test_micro_batches_and_ranks_add_up_with_a_denominator(cut: str) -> None:
    """The count of all rows over two ranks, each of which has all micro-batches here."""
    batch = rows(2)
    module = Ours(objective=GSPO, **OPTIONS)
    module.denominator = 5 / 2
    one = summed(lambda x: module(data(x)).loss_objective, cut, batch, ranks=2)
    assert same(one, paper("GSPO", batch.logp, batch.old, batch.advantages, batch.mask))


def test_other_terms_are_torchrl_s() -> None:
    """Entropy bonus and both KL terms; clip_fraction is a share of tokens here."""
    options = {"kl_to_ref_coeff": 0.1, "kl_to_inference_coeff": 0.2, "entropy_coeff": 0.3}
    batch, ours = rows(1, spread=1.0), Ours(objective=DAPO.with_clip(0.2, 0.2), **options)
    theirs, mine = Own(**options)(data(batch)), ours(data(batch))
    for name in ("loss_entropy", "entropy", "loss_kl_to_ref", "kl_to_ref", "loss_kl_to_inference", "ESS", "kl_approx"):
        assert torch.allclose(getattr(theirs, name), getattr(mine, name)), name
    d, a = (batch.logp - batch.old)[batch.mask], batch.advantages[batch.mask]
    silent = ((a > 0) & (d > np.log1p(0.2))) | ((a < 0) & (d < np.log1p(-0.2)))
    assert float(mine.clip_fraction) == pytest.approx(float(silent.double().mean()), rel=1e-6)
    assert ours.numbers["sequences"] == 5


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_an_objective_replaces_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected None, since the objective says it"):
        GSPOLoss(objective=GSPO, **{name: 0.3})


def test_token_advantages_want_a_ratio_of_tokens() -> None:
    batch = rows(0)
    batch.advantages[0, 1] += 1.0
    exact = paper("GSPO_TOKEN", batch.logp, batch.old, batch.advantages, batch.mask)
    assert same(objective_of(Ours(objective=GSPO_TOKEN, **OPTIONS), batch), exact)
    with pytest.raises(ValueError, match="advantages: expected one number per response"):
        objective_of(Ours(objective=GSPO, **OPTIONS), batch)


def test_every_option_of_this_version_is_known() -> None:
    """A new one fails here."""
    passed = {"entropy_bonus", "samples_mc_entropy", "entropy_coeff", "kl_to_ref_coeff", "kl_to_inference_coeff", "device"}
    passed |= {"masking_strategy", "ref_log_prob_padding_side", "ref_log_prob_padding_value", "actor_network"}
    unread = {"gamma"}  # by torchrl itself
    assert set(inspect.signature(GRPOLoss.__init__).parameters) - {"self", "kwargs"} == passed | unread | set(REFUSED)
    assert isinstance(GSPOLoss(objective=GSPO).objective, Objective)
