"""Sizes of the model that `--model small` and `small-moe` make: plain numbers, so that options are read without a framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmUp:
    """Supervised steps before RL, and the model's size. Part of the cache's key: another value makes another model."""

    target: float = 0.35
    """Sampled accuracy on training questions at which to stop."""
    max_steps: int = 3000
    batch_size: int = 48
    lr: float = 2e-3
    check_every: int = 25
    check_prompts: int = 128
    layers: int = 4
    hidden: int = 160


@dataclass(frozen=True)
class Experts:
    """Experts of each layer. Together, the top-k experts of a token are as wide as the dense model's feed-forward layer."""

    count: int = 16
    top_k: int = 2
