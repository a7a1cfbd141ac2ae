"""The policy of the multi-turn study: a small Qwen3, warmed up on dialogues with the register machine and kept in the cache."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from integration.on_torch.qwen3 import Qwen3Sizes, build_qwen3
from integration.options.errors import TrainingFailure
from integration.shared.model_cache import cached_model
from integration.shared.pretrained import load_model
from integration.studies.multi_turn.register_machine import END, PAD, SYMBOLS, draw_episodes
from integration.studies.multi_turn.rollout import dialogue_logp, draw, written


@dataclass(frozen=True)
class WarmUp:
    """Supervised steps on training dialogues, before RL. Part of the cache's key."""

    seed: int
    target: float = 0.5
    """Share of right turns, sampled on training dialogues, at which to stop."""
    turns: int = 8
    """In the dialogues that it learns from; shorter dialogues are their beginnings."""
    max_steps: int = 2000
    batch_size: int = 16
    lr: float = 2e-3
    check_every: int = 10
    check_episodes: int = 64
    layers: int = 3
    hidden: int = 96


def load_policy(warm_up: WarmUp, cache: Path, device: torch.device) -> Any:
    """The warmed-up model in evaluation mode, from the cache, or made and put there."""
    recipe = {"sizes": asdict(sizes_of(warm_up)), "warm_up": asdict(warm_up)}
    folder = cached_model(cache, f"register-machine-{warm_up.seed}", recipe, lambda: (warmed_up(warm_up),))
    return load_model(str(folder)).to(device)


def sizes_of(warm_up: WarmUp) -> Qwen3Sizes:
    """A third of a million parameters by default, with tied embeddings."""
    return Qwen3Sizes(
        vocabulary=len(SYMBOLS),
        layers=warm_up.layers,
        hidden=warm_up.hidden,
        feed_forward=3 * warm_up.hidden,
        heads=4,
        key_value_heads=2,
        head=warm_up.hidden // 4,
        positions=256,
        tied=True,
        pad_id=PAD,
        end_id=END,
    )


def build_policy(warm_up: WarmUp) -> Any:
    """The policy before its warm-up."""
    return build_qwen3(sizes_of(warm_up), warm_up.seed)


def warmed_up(warm_up: WarmUp) -> Any:
    """A new model after as many supervised steps as the target takes, on the CPU; TrainingFailure if it is not reached."""
    model = build_policy(warm_up)
    source, drawing = random.Random(warm_up.seed), torch.Generator().manual_seed(warm_up.seed)
    checked = draw_episodes(warm_up.check_episodes, warm_up.turns, source, held_out=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=warm_up.lr)
    accuracy = 0.0
    for step in range(1, warm_up.max_steps + 1):
        dialogues = written(draw_episodes(warm_up.batch_size, warm_up.turns, source, held_out=False))
        (-dialogue_logp(model, dialogues).sum() / dialogues.mask.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % warm_up.check_every == 0:
            accuracy = float(draw(model, checked, 1, drawing).rewards.mean())
            if accuracy >= warm_up.target:
                return model
    raise TrainingFailure(f"warm-up reached {accuracy:.0%} of turns after {warm_up.max_steps} steps, not {warm_up.target:.0%}")
