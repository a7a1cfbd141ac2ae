"""One seed of the static study: log ratios and clip decisions under every perturbation, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gspo_torch import Routes
from torch import Tensor

from integration.studies.moe_static.measures import flips, gates, spread, token_gates
from integration.studies.moe_static.models import Kind, Policy, Rollout, Size, sampled, warmed_up
from integration.studies.moe_static.perturbations import (
    LEARNING_RATES,
    MINI_BATCHES,
    PAPER,
    TOKENS,
    engines,
    optimized,
    scaled_band,
    steps_name,
)

GATED = LEARNING_RATES[1]
"""The learning rate at which clip decisions are measured."""


def measure(size: Size, seed: int, device: torch.device) -> dict[str, Any]:
    """All numbers of one seed: of the mixture of experts, and of its dense control."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "made_with": {"torch": torch.__version__, "device": where},
        "moe": of_kind(size, seed, "moe", device),
        "dense": of_kind(size, seed, "dense", device),
    }


@dataclass(frozen=True)
class Scored:
    """Responses, their log-probs [N, L] under a policy, and the routes of that pass."""

    rollout: Rollout
    logp: Tensor
    routes: Routes

    @staticmethod
    def of(policy: Policy, rollout: Rollout) -> Scored:
        """With free routing."""
        return Scored(rollout, *policy.scored(rollout.ids))


@dataclass(frozen=True)
class Gap:
    """Responses scored by a sampling engine that has the weights of the old policy."""

    engine: Scored
    replayed: Tensor
    """The trainer's log-probs at the engine's routes: R3."""


def of_kind(size: Size, seed: int, kind: Kind, device: torch.device) -> dict[str, Any]:
    """The mixture, or its dense control, for which only free routing is reported."""
    policy = warmed_up(size, seed, kind, device)
    rollout = sampled(policy, size.trained + size.measured, seed)
    train, held = (Scored.of(policy, rollout.rows(part)) for part in (slice(size.trained), slice(size.trained, None)))
    exact = bool(torch.equal(policy.scored(held.rollout.ids, held.routes)[0], held.logp))
    gaps, cells, decisions = {}, {}, {}
    for engine in engines(kind):
        other = Scored(held.rollout, *engine.scored(policy, held.rollout.ids, seed))
        gap = gaps[engine.name] = Gap(other, policy.scored(held.rollout.ids, other.routes)[0])
        d = held.logp - other.logp
        cells[engine.name] = cell(kind, d, gap.replayed - other.logp) | changed(kind, other.routes, held.routes, d)
    for lr in LEARNING_RATES:
        for steps, now in optimized(policy, train.rollout, lr):
            name = steps_name(steps, lr)
            cells[name] = moved(kind, now, held) | {
                "trained": moved(kind, now, head_of(train, steps * size.trained // MINI_BATCHES))
            }
            if lr == GATED:
                decisions[name] = decided(kind, now, held, gaps)
    return {"mean_log_prob": float(held.logp.mean()), "own_routes_exact": exact, "cells": cells, "gates": decisions}


def head_of(scored: Scored, count: int) -> Scored:
    """The first responses."""
    index = torch.arange(count, device=scored.routes.routed.device)
    return Scored(scored.rollout.rows(slice(count)), scored.logp[:count], scored.routes.rows(index))


def moved(kind: Kind, now: Policy, before: Scored) -> dict[str, Any]:
    """From the old policy to this one, on some responses: free, and with the old policy's routes replayed (R2)."""
    free, routes = now.scored(before.rollout.ids)
    d = free - before.logp
    return cell(kind, d, now.scored(before.rollout.ids, before.routes)[0] - before.logp) | changed(
        kind, before.routes, routes, d
    )


def cell(kind: Kind, free: Tensor, replayed: Tensor) -> dict[str, Any]:
    """Spread of token log ratios [N, L], with free routing and with replay; "routing" is the spread of their difference."""
    if kind == "dense":
        return {"free": spread(free)}
    return {"free": spread(free), "replayed": spread(replayed), "routing": spread(free - replayed)}


def changed(kind: Kind, before: Routes, after: Routes, d: Tensor) -> dict[str, Any]:
    """Changes of the routes; empty for a dense model."""
    if kind == "dense":
        return {}
    by_layer, shares = flips(before, after, d)
    return {"flips_by_layer": by_layer, **shares}


def decided(kind: Kind, now: Policy, held: Scored, gaps: dict[str, Gap]) -> dict[str, Any]:
    """Clip decisions by engine, by clip range, and by replay: none, the trainer's routes (R2), or the engine's (R3)."""
    ids, advantage = held.rollout.ids, held.rollout.advantage
    bands = {"paper": PAPER, "scaled": scaled_band(now.size.length)}
    own = {"free": (now.scored(ids)[0], held.logp)}
    if kind == "moe":
        own["r2"] = now.scored(ids, held.routes)[0], held.logp
    decisions = {}
    for name, gap in gaps.items():
        theirs = {} if kind == "dense" else {"r3": (now.scored(ids, gap.engine.routes)[0], gap.replayed)}
        pairs = (own | theirs).items()
        decisions[name] = {
            band: {way: gates(*pair, gap.engine.logp, advantage, clip) for way, pair in pairs} for band, clip in bands.items()
        } | {"tokens": {way: token_gates(*pair, gap.engine.logp, advantage, TOKENS) for way, pair in pairs}}
    return decisions
