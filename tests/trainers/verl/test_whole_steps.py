"""Our losses inside of verl's ppo_loss: beside its own terms, with rows and steps without a token, and its registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gspo_torch.trainers.verl import register
from support.trainers.paper import paper
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, agg_loss, kl_penalty
from verl.utils import tensordict_utils as tu
from verl.utils.metric import Metric
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

from gspo_core import GSPO
from gspo_core.objectives import DR_GRPO, LUSPO

LENGTHS = (3, 1, 5, 2)
MODES = {
    "GSPO": "seq-mean-token-mean",
    "BNPO": "token-mean",
    "LUSPO": "seq-mean-token-sum",
    "DR_GRPO": "seq-mean-token-sum-norm",
}
RANGES = {"GSPO": (3e-4, 4e-4), "LUSPO": (LUSPO.surrogate.low, LUSPO.surrogate.high)}


def config(preset: str, **options: Any) -> ActorConfig:
    """Of an actor, with the preset's average and clip range."""
    low, high = RANGES.get(preset, (0.2, 0.2))
    named = {"strategy": "fsdp", "rollout_n": 1, "ppo_micro_batch_size_per_gpu": 1, "loss_agg_mode": MODES[preset]}
    named |= {"clip_ratio_low": low, "clip_ratio_high": high, **options}
    return ActorConfig(policy_loss=PolicyLossConfig(loss_mode=f"gspo_core_{preset.lower()}"), **named)


def batch(masked: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """Four responses in float64; rows of `masked` have no token that counts, and NaN in their log-probs."""
    random, shape = np.random.default_rng(5), (len(LENGTHS), max(LENGTHS))
    mask = np.arange(shape[1]) < np.array(LENGTHS)[:, None]
    mask[list(masked)] = False
    old = -1 - random.random(shape)
    made = {"logp": old + 0.3 * random.normal(size=shape), "old": old, "ref": old + 0.3 * random.normal(size=shape)}
    made |= {"entropy": random.random(shape), "advantage": random.normal(size=(shape[0], 1)) * np.ones(shape)}
    made["old"][list(masked)] = np.nan
    return {name: torch.tensor(x) for name, x in {**made, "mask": mask}.items()}


def step(actor: ActorConfig, rows: dict[str, torch.Tensor], entropy: bool = False) -> tuple[float, Any, list[dict[str, Any]]]:
    """(loss, ∂loss/∂logp, metrics) of one rank with a micro-batch per row."""
    logp, total, metrics = rows["logp"].clone().requires_grad_(), torch.zeros((), dtype=torch.float64), []

    def jagged(x: torch.Tensor) -> torch.Tensor:
        return torch.nested.as_nested_tensor([x], layout=torch.jagged)

    for row, length in enumerate(LENGTHS):
        ids = {"prompts": torch.zeros(2, dtype=torch.int64), "responses": torch.zeros(length, dtype=torch.int64)}
        named = {"response_mask": "mask", "old_log_probs": "old", "advantages": "advantage", "ref_log_prob": "ref"}
        fields = ids | {name: rows[ours][row, :length].double() for name, ours in named.items()}
        data = TensorDict({name: jagged(x) for name, x in fields.items()}, [1])
        counts = {"dp_size": 1, "batch_num_tokens": int(rows["mask"].sum()), "global_batch_size": len(LENGTHS)}
        for name, value in counts.items():
            tu.assign_non_tensor(data, **{name: value})
        zero = logp.new_zeros(1)
        outputs = {"log_probs": logp} | ({"entropy": rows["entropy"]} if entropy else {})
        scored = {name: jagged(torch.cat([zero, x[row, :length], zero])) for name, x in outputs.items()}
        loss, found = ppo_loss(actor, scored, data)
        total = total + loss
        metrics.append(found)
    total.backward()
    return float(total.detach()), logp.grad, metrics


def terms(actor: ActorConfig, rows: dict[str, torch.Tensor]) -> tuple[float, Any]:
    """Value and gradient of verl's own terms, computed apart from any policy loss."""
    logp = rows["logp"].clone().requires_grad_()
    counts = {"batch_num_tokens": int(rows["mask"].sum()), "global_batch_size": len(LENGTHS)}
    kl = kl_penalty(logp, rows["ref"], actor.kl_loss_type)
    both = (
        agg_loss(x, rows["mask"], actor.loss_agg_mode, loss_scale_factor=actor.loss_scale_factor, **counts)
        for x in (kl, rows["entropy"])
    )
    of_kl, of_entropy = both
    value = actor.kl_loss_coef * of_kl - actor.entropy_coeff * of_entropy
    value.backward()
    return float(value.detach()), logp.grad


@pytest.mark.parametrize("preset", MODES)
def test_beside_verl_s_own_terms(preset: str) -> None:
    """It adds entropy and KL to our loss in place: value and gradient are the sum of both."""
    rows = batch()
    scale = {"loss_scale_factor": DR_GRPO.reduction.length} if preset == "DR_GRPO" else {}
    actor = config(preset, entropy_coeff=0.3, use_kl_loss=True, kl_loss_coef=0.5, **scale)
    value, grad, _ = step(actor, rows, entropy=True)
    exact = paper(preset, rows["logp"], rows["old"], rows["advantage"], rows["mask"])
    others, their_grad = terms(actor, rows)
    assert value == pytest.approx(exact.value + others, rel=1e-6)
    np.testing.assert_allclose(grad, exact.grad + their_grad.numpy(), rtol=1e-6, atol=1e-9)
    assert min(abs(others), abs(exact.value)) > 1e-5


def test_a_scale_that_verl_s_own_terms_would_not_share_is_refused() -> None:
    rows = batch()
    assert np.isfinite(step(config("DR_GRPO"), rows)[0])
    for term in ({"entropy_coeff": 0.1}, {"use_kl_loss": True}):
        with pytest.raises(ValueError, match=r"^loss_scale_factor: expected 3000 .* verl divides its own KL and entropy"):
            step(config("DR_GRPO", **term), rows, entropy=True)


@pytest.mark.parametrize("preset", ["GSPO", "BNPO"])
@pytest.mark.parametrize("masked", [(1,), (0, 1, 2, 3)], ids=["a row", "every row"])
def test_rows_without_a_token(preset: str, masked: tuple[int, ...]) -> None:
    """They add nothing, whatever stands in them, and log what others log: verl wants as many numbers of each rank."""
    rows = batch(masked)
    value, grad, metrics = step(config(preset), rows)
    count = 4.0 if preset == "GSPO" else max(float(rows["mask"].sum()), 1.0)
    exact = paper(preset, rows["logp"], np.nan_to_num(rows["old"]), rows["advantage"], rows["mask"], count)
    assert value == pytest.approx(exact.value, abs=1e-12)
    np.testing.assert_allclose(grad, exact.grad, atol=1e-12)
    assert len({frozenset(found) for found in metrics}) == 1
    ranks = [{name: x for name, x in found.items() if isinstance(x, Metric)} for found in metrics]
    assert all(np.isfinite(Metric.aggregate_dp([found[name] for found in ranks])) for name in ranks[0])


def test_the_registry() -> None:
    """An objective may be registered again; a name of verl's, and what is no objective, are refused."""
    for objective in (GSPO, GSPO.with_clip(0.1, 0.1)):
        register("again", objective)
    POLICY_LOSS_REGISTRY.pop("again")
    with pytest.raises(ValueError, match=r"^name: expected one that no other loss of verl has, got 'vanilla'"):
        register("vanilla", GSPO)
    with pytest.raises(TypeError, match=r"^objective: expected an Objective such as gspo_core.GSPO, got 'GSPO'"):
        register("gspo", "GSPO")
