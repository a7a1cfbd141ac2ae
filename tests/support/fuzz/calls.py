"""A valid call of public functions, all arguments by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gspo_jax
import gspo_torch
import jax.numpy as jnp
import numpy as np
import torch

from gspo_core import (
    GSPO,
    TIS,
    Clip,
    Objective,
    Packed,
    Padded,
    Pilot,
    Sequence,
    SequenceMean,
    TokenKL,
    Turns,
    batch_metrics,
    diagnose,
    group_advantages,
    group_metrics,
    kl_penalty,
    plan,
    policy_loss,
    sampler_weight,
    sharded,
    summary,
)  # fmt: skip
from gspo_core.clip_range import clip_range_for
from gspo_core.kl import K3, Capped, KLTerm
from gspo_core.layouts import Restricted, Weighted
from gspo_core.metrics import Thresholds
from gspo_core.mismatch import Correction, Reject, TokensInside, TokenWeight, Truncate, mismatch_report
from gspo_core.objectives import TotalVariation
from gspo_core.selection import (
    future_kl_advantages,
    inside_region,
    kept_advantages,
    token_covariance,
    top_share,
    within_second_moment,
)

N, T = 3, 4
Call = tuple[Callable[..., Any], dict[str, Any]]


def of_selection(rng: np.random.Generator) -> dict[str, Call]:
    """Of gspo_core.selection."""
    mask, old, advantage = rng.random((N, T)) < 0.8, rng.normal(size=(N, T)) - 4.0, rng.normal(size=N)
    pair = {"logp": old + 0.1 * rng.normal(size=(N, T)), "old_logp": old, "layout": Padded(mask)}
    state = {**pair, "advantage": advantage}
    covariance = {"logp": old, "advantage": advantage, "layout": Padded(mask)}
    return {
        "inside_region": (inside_region, {"region": TotalVariation(0.1, 0.2), **state}),
        "kept_advantages": (kept_advantages, {"advantage": advantage, "kept": mask, "layout": Padded(mask)}),
        "top_share": (top_share, {"values": old, "layout": Padded(mask), "share": 0.25}),
        "within_second_moment": (within_second_moment, {**pair, "threshold": 0.1}),
        "token_covariance": (token_covariance, covariance),
        "future_kl_advantages": (
            future_kl_advantages,
            {**state, "half_life": 3.0, "low": 0.9, "high": 1.2, "safety": 4.0},
        ),
        "TotalVariation": (TotalVariation, {"low": 0.1, "high": 0.2, "either_side": False}),
    }


def of_core(rng: np.random.Generator) -> dict[str, Call]:
    """Of gspo_core, and the losses of gspo_torch."""
    mask = rng.random((N, T)) < 0.8
    old = rng.normal(size=(N, T)) - 2.0
    logp, advantage, ids = old + 0.01 * rng.normal(size=(N, T)), rng.normal(size=N), np.array([0, 0, 1])
    layout, rewards = Padded(mask), rng.random(N)
    loss = policy_loss(GSPO, logp, old, advantage, layout)
    metrics = batch_metrics(GSPO, loss, logp, old, advantage, layout)
    state = {"objective": GSPO, "logp": logp, "old_logp": old, "advantage": advantage, "layout": layout}
    pilot = {"logp": logp, "old_logp": old, "advantage": advantage, "layout": layout}
    penalty = {"estimator": TokenKL(), "logp": logp, "old_logp": old, "ref_logp": old, "layout": layout}
    torch_state = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
    torch_state["layout"] = Padded(torch.tensor(mask))
    return {
        "policy_loss": (policy_loss, {**state, "denominator": 3.0, "on_policy": False, "allow_low_precision": False}),
        "gspo_torch.policy_loss": (gspo_torch.policy_loss, {**torch_state, "denominator": 3.0, "on_policy": False}),
        "batch_metrics": (batch_metrics, {**state, "loss": loss}),
        "group_advantages": (group_advantages, {"rewards": rewards, "group_ids": ids}),
        "group_metrics": (group_metrics, {"advantage": advantage, "group_ids": ids}),
        "plan": (plan, {"rewards": rewards, "group_ids": ids}),
        "summary": (summary, {"metrics": metrics}),
        "diagnose": (diagnose, {"metrics": metrics, "objective": GSPO, "thresholds": Thresholds()}),
        "kl_penalty": (kl_penalty, {**penalty, "reduction": SequenceMean()}),
        "sampler_weight": (sampler_weight, {"correction": TIS, "old_logp": old, "sampler_logp": logp, "layout": layout}),
        "Pilot.measure": (Pilot.measure, pilot),
        "clip_range_for": (clip_range_for, {"target": 0.15, "law": Pilot.measure(**pilot), "high_over_low": 4 / 3}),
        "Padded": (Padded, {"mask": mask}),
        "Packed": (Packed, {"segment_ids": np.array([0, 0, 1, 2]), "num_sequences": 3}),
        "Packed.from_cu_seqlens": (
            Packed.from_cu_seqlens, {"cu_seqlens": np.array([0, 2, 3]), "num_tokens": 4, "mask": np.ones(4, dtype=bool)},
        ),
        "Turns": (Turns, {"layout": layout, "turn_ids": np.zeros((N, T), dtype=int), "num_turns": 2}),
        "sharded": (sharded, {"layout": layout, "sum_over_shards": lambda lengths: lengths}),
        "mismatch_report": (
            mismatch_report,
            {**pilot, "sampler_logp": old, "clip": Clip(0.1, 0.2)},
        ),
        "Correction": (Correction, {"level": TokenWeight(), "action": Truncate(2.0)}),
        "KLTerm": (partial(KLTerm, ref_logp=old), {"estimator": K3(), "coefficient": 0.1}),
        "Restricted": (Restricted, {"layout": layout, "kept": mask}),
        "Weighted": (Weighted, {"layout": layout, "weights": np.ones(N)}),
        "Clip": (Clip, {"low": 0.1, "high": 0.2}),
        "with_clip": (GSPO.with_clip, {"low": 0.1, "high": 0.2}),
        "Objective": (Objective, {"ratio": Sequence(), "surrogate": Clip(0.1, 0.2), "reduction": SequenceMean()}),
        "Capped": (Capped, {"estimator": K3(), "cap": 5.0}),
        "Reject": (Reject, {"low": 0.5, "high": 2.0, "drop": True}),
        "TokensInside": (TokensInside, {"low": 0.5, "high": 2.0}),
    }  # fmt: skip


def of_heads(rng: np.random.Generator) -> dict[str, Call]:
    """Of gspo_torch's functions of hidden states."""
    mask = torch.tensor(rng.random((N, T)) < 0.8)
    hidden, lm_head = torch.tensor(rng.normal(size=(N, T, 5))), torch.tensor(rng.normal(size=(7, 5)))
    tokens, old = torch.tensor(rng.integers(0, 7, (N, T))), torch.tensor(rng.normal(size=(N, T)) - 2.0)
    scored = {
        "hidden": hidden, "lm_head": lm_head, "tokens": tokens, "bias": torch.zeros(7, dtype=hidden.dtype), "temperature": 0.7,
        "soft_cap": 5.0, "layout": Padded(mask),
    }  # fmt: skip
    linear = {
        **scored, "objective": GSPO, "old_logp": old, "advantage": torch.tensor(rng.normal(size=N)), "denominator": 3.0,
        "on_policy": False, "entropy_bonus": 0.1, "kl": gspo_torch.KLTerm(K3(), old, 0.1), "return_logp": True,
        "return_entropy": True, "budget_bytes": 2**20,
    }  # fmt: skip
    return {
        "token_logp": (gspo_torch.token_logp, {**scored, "static": True}),
        "token_scores": (gspo_torch.token_scores, {**scored, "static": True, "entropy_gradient": True, "sum_pi_squared": True}),
        "linear_policy_loss": (gspo_torch.linear_policy_loss, linear),
    }


def of_jax(rng: np.random.Generator) -> dict[str, Call]:
    """Of gspo_jax's losses."""
    logp, old, advantage = (jnp.asarray(rng.normal(size=size), dtype=jnp.float32) for size in ((N, T), (N, T), (N,)))
    shared = {"logp": logp, "layout": Padded(jnp.asarray(rng.random((N, T)) < 0.8)), "denominator": 3.0}
    return {
        "gspo_jax.policy_loss": (
            gspo_jax.policy_loss,
            {**shared, "objective": GSPO, "old_logp": old, "advantage": advantage, "on_policy": False},
        ),
        "gspo_jax.kl_penalty": (
            gspo_jax.kl_penalty,
            {**shared, "estimator": TokenKL(), "ref_logp": old, "old_logp": old, "reduction": SequenceMean()},
        ),
    }


def calls(rng: np.random.Generator) -> dict[str, Call]:
    """All of them."""
    return {**of_core(rng), **of_heads(rng), **of_jax(rng), **of_selection(rng)}
