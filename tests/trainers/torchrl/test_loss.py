"""torchrl's GRPOLoss and ours: the same where it computes the objective, the paper's otherwise."""

from __future__ import annotations

import copy
import inspect
import pickle
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
from tensordict import TensorDict, lazy_stack
from torchrl.objectives.llm import GRPOLoss

import gspo_core
from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Padded
from gspo_core.objectives import DAPO, DR_GRPO, PRESETS


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


@given(seed=st.integers(0, 1000))
def test_masks_of_the_batch_are_honoured(seed: int) -> None:
    """Those that torchrl's own mean reads: found by their names, by a name that is given, or not at all."""
    batch = rows(seed)
    other = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.7
    for key, name in ((("collector", "mask"), "auto"), ("shifted_valid", "auto"), ("mine", "mine"), ("mine", None)):
        found = []
        for module in (Own(**OPTIONS), Ours(objective=DAPO.with_clip(0.2, 0.2), **OPTIONS)):
            module.loss_mask_key = name
            held = TensorDict({key: other[..., None]}, batch_size=[len(batch.mask)])
            found.append(graded(lambda x, m=module, h=held: m(data(x).update(h)).loss_objective.sum(), batch))
        assert same(*found, 1e-7), key


def test_a_mask_of_the_batch_changes_the_lengths_of_responses() -> None:
    batch, kept = rows(3), torch.arange(6) != 1
    held = TensorDict({"shifted_valid": kept.expand(batch.mask.shape)}, batch_size=[len(batch.mask)])
    found = graded(lambda x: Ours(objective=GSPO, **OPTIONS)(data(x).update(held)).loss_objective, batch)
    assert same(found, paper("GSPO", batch.logp, batch.old, batch.advantages, batch.mask & kept))
    assert not same(found, paper("GSPO", batch.logp, batch.old, batch.advantages, batch.mask))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("objective", [GSPO, DAPO, DR_GRPO], ids=["GSPO", "DAPO", "DR_GRPO"])
def test_an_entropy_bonus_is_averaged_as_the_objective_is(objective: Objective, cut: str) -> None:
    """By the same weights and over the same denominator, in micro-batches of any sizes; masked slots may hold NaN."""
    batch = rows(4)
    entropy = batch.logp.abs() * batch.advantages.abs()
    weights = objective.reduction.weights(Padded(batch.mask), True, objective.count(Padded(batch.mask)).double())
    exact = -0.3 * float((weights * entropy).nansum())

    class Noted(Ours):
        """Entropies of the rows of a part."""

        def _get_entropy(self, dist: Any, adv_shape: Any) -> Any:
            return torch.where(dist.mask, entropy[self.part], torch.nan)[..., None]

    module = Noted(objective=objective, entropy_coeff=0.3, denominator=float(objective.count(Padded(batch.mask))))
    total = 0.0
    for chosen in CUTS[cut]:
        module.part = list(chosen)
        total += float(module(data(batch.part(chosen))).loss_entropy)
    assert total == pytest.approx(exact, rel=1e-9)
    assert abs(exact) > 1e-5


def test_kl_terms_of_micro_batches_add_up() -> None:
    """Torchrl's is a mean over slots: that of the whole, if the parts have as many slots and responses."""
    batch, options = rows(6, FULL), {"kl_to_ref_coeff": 0.1, "kl_to_inference_coeff": 0.2, **OPTIONS}
    whole = Ours(objective=GSPO, **options)(data(batch))
    parts = [Ours(objective=GSPO, denominator=6.0, **options)(data(batch.part(x))) for x in CUTS["three"]]
    for name in ("loss_kl_to_ref", "loss_kl_to_inference", "loss_objective"):
        assert float(sum(getattr(part, name) for part in parts)) == pytest.approx(float(getattr(whole, name)), rel=1e-9), name
    assert whole.loss_kl_to_ref > 0


@pytest.mark.parametrize("objective", [GSPO, GRPO], ids=["GSPO", "GRPO"])
def test_a_token_that_the_policy_has_excluded(objective: Objective) -> None:
    """A current log-prob of −∞, which is a ratio of 0: as in the core, and no NaN."""
    batch = rows(8)
    batch.logp[0, 1] = -torch.inf
    numbers = [x.numpy() for x in (batch.logp, batch.old, batch.advantages[:, 0])]
    exact = gspo_core.policy_loss(objective, *numbers, Padded(batch.mask.numpy()))
    found = objective_of(Ours(objective=objective, **OPTIONS), batch)
    assert np.isfinite(found[0])
    assert found[0] == pytest.approx(float(exact.value), rel=1e-9)
    assert np.allclose(found[1], exact.logp_grad)


def test_rows_of_other_lengths_keep_their_advantages() -> None:
    """A lazy stack, whose log-probs torchrl pads on the left and whose advantages on the right."""
    batch = rows(9, (4, 2, 3))
    single = []
    for logp, old, advantage, mask in zip(batch.logp, batch.old, batch.advantages, batch.mask, strict=True):
        fields = {"current": logp[mask], "advantage": advantage[mask][:, None], "valid": mask[mask]}
        fields |= {("tokens", "full"): torch.zeros(int(mask.sum()), dtype=torch.int64), ("log_probs", "full"): old[mask]}
        single.append(TensorDict(fields, batch_size=[]))

    class Ragged(GSPOLoss):
        """Log-probs and mask padded on the left."""

        def _get_cur_log_prob(self, tensordict: Any) -> Any:
            logp, valid = (tensordict.get(x, as_padded_tensor=True, padding_side="left") for x in ("current", "valid"))
            return logp, SimpleNamespace(mask=valid), False

    found = Ragged(objective=GSPO, **OPTIONS)(lazy_stack(single)).loss_objective
    assert float(found) == pytest.approx(paper("GSPO", batch.logp, batch.old, batch.advantages, batch.mask).value)


def test_options_that_torchrl_would_ignore_are_refused() -> None:
    """It takes any keyword. The denominator is an argument, too; a clip range cannot be scheduled."""
    assert GSPOLoss(objective=GSPO, denominator=5.0).denominator == 5.0
    with pytest.raises(TypeError, match=r"^epsilon: expected an option of GRPOLoss, objective or denominator, got epsilon=0.1"):
        GSPOLoss(objective=GSPO, epsilon=0.1)
    with pytest.raises(TypeError, match=r"^objective: expected an Objective such as gspo_core.GSPO, got 'GSPO'"):
        GSPOLoss(objective="GSPO")
    module = GSPOLoss(objective=GSPO)
    for name in ("clip_epsilon_low", "clip_epsilon_high"):
        with pytest.raises(ValueError, match=f"^{name}: expected no schedule"):
            setattr(module, name, 0.1)


def test_a_copy_computes_the_same() -> None:
    """Copied and pickled, after a call as well, as workers do."""
    batch, module = rows(1), GSPOLossOfRows(objective=GSPO, denominator=5.0, **OPTIONS)
    first = objective_of(module, batch)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert same(objective_of(other, batch), first)


class GSPOLossOfRows(Ours):
    """At the module's level, so that it can be pickled."""
