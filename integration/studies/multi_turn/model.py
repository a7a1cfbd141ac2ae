"""A Qwen3 of a third of a million parameters for the register machine: from a config, warmed up, cached by its recipe."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from integration.shared.errors import TrainingFailure
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
    """The warmed-up model, in evaluation mode; made if the cache has none of this recipe."""
    recipe = json.dumps(asdict(warm_up))
    folder = cache / f"register-machine-{warm_up.seed}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not (folder / "config.json").exists():
        model = warmed_up(warm_up)
        temporary = folder.with_name(f".{folder.name}-{os.getpid()}")
        model.save_pretrained(temporary)
        try:
            os.replace(temporary, folder)
        except OSError:  # another process was faster, with the same weights
            shutil.rmtree(temporary)
    saved: Any = Qwen3ForCausalLM.from_pretrained(folder)
    return saved.to(device).eval()


def build_policy(warm_up: WarmUp) -> Any:
    """Randomly initialised, tied embeddings."""
    torch.manual_seed(warm_up.seed)
    config = Qwen3Config(
        vocab_size=len(SYMBOLS),
        hidden_size=warm_up.hidden,
        intermediate_size=3 * warm_up.hidden,
        num_hidden_layers=warm_up.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=warm_up.hidden // 4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
    )
    model: Any = Qwen3ForCausalLM(config)
    return model.eval()


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
