"""Short runs of TRL's trainers on stored responses, for comparisons of parameters. Also a command, for torchrun:

python tests/support/trainers/trl_runs.py OUT.safetensors '{"objective": "GRPO", "accumulation": 4, "empty": true}'
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl.trainer.grpo_trainer as host
from datasets import Dataset
from gspo_torch.trainers.trl import GSPOConfig, GSPOTrainer
from peft import LoraConfig
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

import gspo_core.objectives
from integration.parity.reference import START

ROWS, GROUP, STEPS = 16, 4, 4
"""Responses of an optimizer step over all ranks, to a prompt, and optimizer steps of a generation."""

EVALUATED = Dataset.from_list([{"prompt": "unused"}] * GROUP)
"""Questions of an evaluation, a group of responses to each."""

SMALL: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "shuffle_dataset": False,
    "num_generations": GROUP,
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "gradient_checkpointing": False,
}


def responses(empty: bool, tools: bool) -> list[dict[str, Any]]:
    """Of one generation; every second group has equal rewards, so that its responses have no advantage."""
    random = np.random.default_rng(0)
    found = []
    for row in range(ROWS * STEPS):
        ids = random.integers(3, 20, random.integers(1, 7)).tolist()
        mask = (random.random(len(ids)) < 0.7).astype(int).tolist() if tools else [1] * len(ids)
        if empty and row % 5 == 0:
            mask = [0] * len(ids)
        reward = float(random.random() < 0.5) if (row // GROUP) % 2 else 0.25
        logp: list[float | None] = (-2.0 - random.random(len(ids))).tolist()
        logp[0] = None if row % 7 == 0 else logp[0]  # a token that the engine could not score
        found.append({"ids": ids, "mask": mask, "reward": reward, "logp": logp})
    return found


def train(trainer: type[GRPOTrainer], config: type[GRPOConfig], *, accumulation: int = 1, empty: bool = False,
          tools: bool = False, lora: bool = False, generation: int = STEPS, model: Any = None, lr: float = 0.01,
          sampled: bool = False, judged: Any = None, **options: Any) -> Any:  # fmt: skip
    """Takes STEPS optimizer steps with plain SGD, which shows every factor; `generation` of them have their own responses."""
    ranks, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    rows = responses(empty, tools)[: ROWS * generation]
    # Micro-batch m of a step holds the same responses, whatever the accumulation and the number of ranks.
    mine = [row for row in range(len(rows)) if row % ranks == rank]

    def rollout(prompts: list[Any], _: Any) -> dict[str, Any]:
        chosen = [rows[row] for row in mine[: len(prompts)]]
        out = {
            "prompt_ids": [[5, 6, 7][: 1 + row % 3] for row in mine[: len(prompts)]],
            "completion_ids": [row["ids"] for row in chosen],
            "logprobs": [row["logp"] for row in chosen] if sampled else None,
            "reward": [row["reward"] for row in chosen],
        }
        return {**out, "env_mask": [row["mask"] for row in chosen]} if empty or tools else out

    if model is None:
        model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32)
    optimizers: Any = (None, None)
    peft = None
    if lora:
        torch.manual_seed(0)
        peft = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    else:
        optimizers = (torch.optim.SGD(model.parameters(), lr=lr), None)
    micro = ROWS // (accumulation * ranks)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = config(
            folder, max_steps=STEPS, per_device_train_batch_size=micro, gradient_accumulation_steps=accumulation,
            steps_per_generation=generation * accumulation, learning_rate=lr, lr_scheduler_type="constant",
            **({"optim": "sgd"} if lora else {}), **{**SMALL, **options},
        )  # fmt: skip
        made = trainer(
            model, judged or (lambda reward, **_: reward), args, Dataset.from_list([{"prompt": "unused"}] * 64), EVALUATED,
            processing_class=AutoTokenizer.from_pretrained(START), rollout_func=rollout, peft_config=peft,
            optimizers=optimizers,
        )  # fmt: skip
        assert made.accelerator.num_processes == ranks
        shuffled, host.shuffle_sequence_dict = host.shuffle_sequence_dict, lambda batch: batch
        try:
            made.train()
        finally:
            host.shuffle_sequence_dict = shuffled
    return made


class OwnAdvantages(GSPOTrainer):
    """Groups lie across ranks here, which TRL does not know: each response's reward minus a constant."""

    def advantages(self, batch: Any, rewards: torch.Tensor) -> torch.Tensor:
        """[N]"""
        return torch.where(rewards == 0.25, 0.0, rewards - 0.5)


def ours(objective: Any, trainer: type[GSPOTrainer] = GSPOTrainer, **options: Any) -> Any:
    """Trains with an objective."""
    return train(trainer, GSPOConfig, objective=objective, **options)


def theirs(**options: Any) -> Any:
    """Trains with TRL's own loss."""
    return train(GRPOTrainer, GRPOConfig, **options)


def parameters(trainer: Any) -> dict[str, np.ndarray]:
    """By name, those that were trained."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters() if p.requires_grad}


def logged(trainer: Any, name: str) -> list[float]:
    """A number of every optimizer step."""
    return [row[name] for row in trainer.state.log_history if name in row]


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    named = {"objective": getattr(gspo_core.objectives, given.pop("objective"))}
    result = parameters(ours(**named, trainer=OwnAdvantages, **given))
    if os.environ.get("RANK", "0") == "0":
        save_file(result, Path(sys.argv[1]))
