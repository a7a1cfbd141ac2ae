"""The static study's measures of log ratios: spread, tails, correlation within a response, and clip decisions."""

from __future__ import annotations

import math

import numpy as np
import torch
from gspo_torch import Routes
from torch import Tensor

from gspo_core import Clip
from gspo_core.clip_range import estimate_drift
from gspo_core.mismatch import mismatch_report
from integration.studies.moe_static.models import PROMPT, every_token

LENGTHS = (12, 24, 48, 96)
Numbers = dict[str, float]


def spread(d: Tensor) -> Numbers:
    """Of token log ratios d [N, L], in nats."""
    d = d.double()
    centred = d - d.mean()
    variance = float(centred.square().mean())
    numbers = {
        "token_sd": math.sqrt(variance),
        "kurtosis": float(centred.pow(4).mean()) / variance**2 - 3 if variance else 0.0,
        "p999": float(np.quantile(d.abs().cpu().numpy(), 0.999)),
        "beyond_2": float((d.abs() > math.log(2)).double().mean()),
        "log_s_sd": float(d.mean(1).std()),
        "design_effect": design_effect(d),
    }
    by_length = {f"log_s_sd_{n}": sd for n, sd in by_lengths(d).items()}
    return numbers | by_length | ({"exponent": exponent(d)} if all(by_length.values()) else {})


def by_lengths(d: Tensor) -> dict[int, float]:
    """sd of log s over stretches of 12, 24, 48, … tokens, end to end, so that all lengths are of the same tokens."""
    lengths = [n for n in LENGTHS if n <= d.shape[1]]
    return {n: float(d[:, : d.shape[1] // n * n].reshape(-1, n).mean(1).std()) for n in lengths}


def design_effect(d: Tensor) -> float:
    """Of token log ratios [N, L]: 1 if the tokens of a response move independently, L if they move as one."""
    return float(estimate_drift(d, torch.zeros_like(d), every_token(d)).design_effect)


def exponent(d: Tensor) -> float:
    """b of sd(log s) ∝ L^b over stretches of L tokens: −1/2 for independent tokens, 0 for tokens that move as one."""
    lengths, sds = zip(*by_lengths(d).items(), strict=True)
    return float(np.polyfit(np.log(lengths), np.log(sds), 1)[0])


def flips(routes: Routes, other: Routes, d: Tensor) -> tuple[list[float], Numbers]:
    """(share of slots with another expert, by layer; how much of the tail of d [N, L] is at tokens whose route changed).

    A token's log-prob is that of the position before it, and a position counts as changed if it was in any layer.
    """
    d = d.double()
    kept = (routes.experts.unsqueeze(-1) == other.experts.unsqueeze(-2)).any(-1)  # [layers, N, S, K]
    changed = (~kept).any(-1).any(0)[:, PROMPT - 1 : -1]
    far = d.abs() >= torch.quantile(d.abs().flatten(), 0.999)
    shares = {
        "tokens_changed": float(changed.double().mean()),
        "tail_changed": float(changed[far].double().mean()),
        "variance_changed": float(d[changed].square().sum() / d.square().sum()),
    }
    return routes.flips(other).tolist(), shares


def gates(now: Tensor, old: Tensor, sampler: Tensor, advantage: Tensor, clip: Clip) -> Numbers:
    """Change of the clip decisions on responses if the engine's log-probs replace recomputed old ones."""
    report = mismatch_report(now, old, sampler, advantage, every_token(now), clip)
    return {
        "disagreement": float(report.gate_disagreement),
        "clipped_by_old": float(report.clipped_by_old),
        "clipped_by_sampler": float(report.clipped_by_sampler),
        "noise_floor_share": float(report.noise_floor_share),
        "token_noise_share": float(report.token_noise_share),
        "log_s_noise_share": float(report.log_s_noise_share),
    }


def token_gates(now: Tensor, old: Tensor, sampler: Tensor, advantage: Tensor, clip: Clip) -> Numbers:
    """The same of the clip decisions on single tokens, as shares of all tokens: each counts as a response of one token."""
    new, before, engine = (x.reshape(-1, 1) for x in (now, old, sampler))
    report = mismatch_report(new, before, engine, advantage.repeat_interleave(now.shape[1]), every_token(new), clip)
    return {
        "disagreement": float(report.gate_disagreement),
        "clipped_by_old": float(report.clipped_by_old),
        "clipped_by_sampler": float(report.clipped_by_sampler),
    }
