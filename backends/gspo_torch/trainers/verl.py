"""GSPO inside verl: every preset of gspo_core.objectives as a policy loss, `gspo_core_<preset in lower case>`.

verl finds this module by itself, by its entry point. On the command line of `python -m verl.trainer.main_ppo`:

    actor_rollout_ref.actor.policy_loss.loss_mode=gspo_core_gspo actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
    actor_rollout_ref.actor.clip_ratio_low=3e-4 actor_rollout_ref.actor.clip_ratio_high=4e-4

The clip range is verl's option for presets that have one. verl's own KL and entropy terms are averaged by `loss_agg_mode`,
which therefore has to be that of the objective. Options that another loss of verl reads are refused. `register` adds an
objective of your own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, register_policy_loss

from gspo_core import Objective, Padded, batch_metrics, objectives, summary
from gspo_torch import policy_loss

from .responses import advantage_for, check_objective, whole_step, with_range

LOGGED = ("clip_active", "clip_low", "clip_high", "log_s_mean", "log_s_rms", "log_s_min", "log_s_max", "ess", "zero_advantage")
OTHERS = {"clip_ratio": 0.2, "clip_ratio_c": 3.0, "tau_pos": 1.0, "tau_neg": 1.05}
"""Options of the actor that no objective reads here, with their defaults."""
OF_OTHER_LOSSES = {
    "clip_cov_ratio": 0.0002,
    "clip_cov_lb": 1.0,
    "clip_cov_ub": 5.0,
    "kl_cov_ratio": 0.0002,
    "ppo_kl_coef": 0.1,
    "dro_beta": None,
}
"""Likewise, of `policy_loss`."""
SCALED = "seq-mean-token-sum-norm"
"""verl's average that is divided by loss_scale_factor."""


def register(name: str, objective: Objective) -> None:
    """Make an objective known to verl as loss_mode=name.

    Its loss is divided by the whole mini-batch's number of responses or tokens (`global_batch_size`, `batch_num_tokens`), so
    that micro-batches and ranks add up; verl counts responses without a token as well. An objective with one ratio per
    sequence needs equal advantages at all tokens of a response: for others, and for a weight per token, there is
    gspo_core_gspo_token.

    Raises: TypeError for what is no objective, ValueError for the name of a loss that is not from here.
    """
    check_objective(objective)
    if (held := POLICY_LOSS_REGISTRY.get(name)) is not None and held.__module__ != __name__:
        raise ValueError(f"name: expected one that no other loss of verl has, got {name!r}, that of {held.__module__}")

    @register_policy_loss(name)  # type: ignore[untyped-decorator]  # verl is not installed where types are checked
    def loss(
        old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor, loss_agg_mode: str, config: Any,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
        chosen, layout = _configured(name, objective, loss_agg_mode, config), Padded(response_mask > 0)
        weighted = advantages if rollout_is_weights is None else advantages * rollout_is_weights
        advantage = advantage_for(chosen, weighted, layout)
        whole = _whole(chosen, config)
        found = policy_loss(chosen, log_prob, old_log_prob, advantage, layout, denominator=whole)
        numbers = summary(batch_metrics(chosen, found, log_prob.detach(), old_log_prob, advantage, layout))
        logged = {f"gspo/{key}": numbers.get(key, 0.0) for key in LOGGED}  # the same of every rank, as verl wants it
        return found.value, {
            "actor/pg_clipfrac": numbers.get("clip_active_tokens", 0.0),
            "actor/ppo_kl": numbers.get("kl_k1_per_token", 0.0),
            "actor/pg_clipfrac_lower": 0.0,
            **logged,
        }


def _configured(name: str, objective: Objective, mode: str, config: Any) -> Objective:
    """The objective with verl's clip range. ValueError for an option that would have no effect, or another one than meant."""
    for options, defaults in ((config, OTHERS), (config.policy_loss, OF_OTHER_LOSSES)):
        for option, default in defaults.items():
            if options.get(option, default) != default:
                raise ValueError(f"{option}: expected its default {default} with loss_mode={name}, which does not read it")
    length = getattr(objective.reduction, "length", None)
    terms = config.use_kl_loss or config.entropy_coeff != 0
    if config.loss_scale_factor not in ((length,) if length and terms and mode == SCALED else (None, length)):
        others = "; verl divides its own KL and entropy terms by it" if length and terms else ""
        raise ValueError(
            f"loss_scale_factor: expected {length or None} with loss_mode={name}, got {config.loss_scale_factor}{others}"
        )
    expected = _modes(objective)
    if mode not in expected:
        known = " or ".join(map(repr, expected))
        raise ValueError(f"loss_agg_mode: expected {known}, as loss_mode={name} averages, got {mode!r}")
    return with_range(objective, config.clip_ratio_low, config.clip_ratio_high, "clip_ratio_low, clip_ratio_high")


def _modes(objective: Objective) -> tuple[str, ...]:
    """verl's names for the objective's average."""
    if isinstance(objective.reduction, objectives.TokenMean):
        return ("token-mean",)
    if isinstance(objective.reduction, objectives.FixedLength):
        return (SCALED, "seq-mean-token-sum") if objective.reduction.length == 1 else (SCALED,)
    return ("seq-mean-token-mean",)


def _whole(objective: Objective, config: Any) -> float | Tensor | None:
    """The number to divide by: the whole mini-batch's, over the ranks whose gradients verl averages; None: this batch's own."""
    info, shapes = config.global_batch_info, (torch.ones(1, length, dtype=torch.bool) for length in (1, 2))
    of_one, of_two = (objective.count(Padded(shape)).item() for shape in shapes)
    name, factor = ("global_batch_size", of_one) if of_one == of_two else ("batch_num_tokens", 1.0)
    return None if info.get(name) is None else whole_step(info[name] * factor, info.get("dp_size", 1))


for _name, _preset in objectives.PRESETS.items():
    register(f"gspo_core_{_name.lower()}", _preset)
