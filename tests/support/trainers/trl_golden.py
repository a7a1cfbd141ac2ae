"""The twenty reference updates through TRL's trainer, on one process or, under torchrun, on several.

    python tests/support/trainers/trl_golden.py OUT --accumulation 2 [--checkpointing] [--fsdp]

Writes the updates as `integration.parity.comparison` reads them, and the parameters after the last one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trl.trainer.grpo_trainer as host
from datasets import Dataset
from gspo_torch.trainers.trl import GSPOConfig, GSPOTrainer
from safetensors.numpy import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from gspo_core import GSPO
from integration.parity.reference import CLIP, START, Golden, Rollout, load, marks


class Stored(GSPOTrainer):
    """Takes stored responses, and keeps loss, log s and clip decisions of every optimizer step."""

    def __init__(self, golden: Golden, accumulation: int, args: GSPOConfig, fsdp: bool) -> None:
        self.golden, self.accumulation = golden, accumulation
        self.updates: list[dict[str, Any]] = []
        self.loss, self.seen = 0.0, []
        model = AutoModelForCausalLM.from_pretrained(START, dtype=torch.float32)
        if fsdp:  # by hand: accelerate has none on a CPU
            for part in [*model.model.layers, model]:
                fully_shard(part, mesh=init_device_mesh("cpu", (args.world_size,)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=golden.options["lr"], weight_decay=0.0)
        warm_up = golden.options["lr_warm_up"]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
        super().__init__(
            model, judged, args, Dataset.from_list([{"prompt": "unused"}] * 40),
            processing_class=AutoTokenizer.from_pretrained(START), optimizers=(optimizer, schedule),
            rollout_func=stored, callbacks=[Ends(self)],
        )  # fmt: skip
        if fsdp:
            self.accelerator.prepare_model = lambda model, **_: model  # no DDP around it

    def rows(self) -> list[int]:
        """This rank's responses of the current rollout, micro-batch after micro-batch."""
        size, rank = self.accelerator.num_processes, self.accelerator.process_index
        return [row for batch in self.rollout().mini_batches for row in batch[rank::size]]

    def rollout(self) -> Rollout:
        """The one whose updates come next."""
        return self.golden.rollouts[self.state.global_step // 4]

    def advantages(self, batch: dict[str, Any], rewards: torch.Tensor) -> torch.Tensor:
        """Rows are spread over ranks without regard to groups: the stored rollout's own advantages."""
        assert rewards.tolist() == [self.rollout().rewards[row] for row in self.rows()]
        return torch.as_tensor(self.rollout().planned().advantage[self.rows()], dtype=torch.float32)

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        value = super()._compute_loss(model, inputs)
        self.loss += float(value.detach())
        return value

    def keep(self, loss: Any, batch: Any, ran: Any) -> None:
        """log s, clip decision and place of every response with an advantage."""
        live = batch["advantages"][ran] != 0
        place = batch["row"][ran][live]
        self.seen += zip(place.tolist(), loss.log_ratio[live].tolist(), loss.clipped[live].tolist(), strict=True)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        return {**batch, "row": torch.tensor(self.rows())}


class Ends(TrainerCallback):
    """The end of an optimizer step: what all ranks have seen, in the order of the mini-batch."""

    def __init__(self, trainer: Stored) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more update."""
        mine = self.trainer
        rollout, batch = mine.golden.rollouts[(state.global_step - 1) // 4], (state.global_step - 1) % 4
        ranks = [(mine.loss, mine.seen)]
        if mine.accelerator.num_processes > 1:
            ranks = [None] * mine.accelerator.num_processes
            torch.distributed.all_gather_object(ranks, (mine.loss, mine.seen))
        of_row = {row: (log_s, clipped) for _, seen in ranks for row, log_s, clipped in seen}
        found = [of_row[row] for row in rollout.mini_batches[batch] if row in of_row]
        mine.updates.append({
            "loss": sum(loss for loss, _ in ranks) / len(ranks),
            "log_s": [x for x, _ in found],
            "clipped": [x for _, x in found],
            "marks": marks(parameters(mine)),
        })  # fmt: skip
        mine.loss, mine.seen = 0.0, []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """TRL's log has the norm of the gradient before it is cut."""
        if "grad_norm" in logs:
            self.trainer.updates[-1]["grad_norm"] = logs["grad_norm"]


def parameters(trainer: Stored) -> dict[str, np.ndarray]:
    """By the checkpoint's names."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    whole = ((name, p.full_tensor() if isinstance(p, DTensor) else p) for name, p in model.named_parameters())
    return {name: p.detach().numpy().copy() for name, p in whole}


def stored(prompts: list[Any], trainer: Stored) -> dict[str, Any]:
    """TRL's rollout_func: token ids of the stored responses."""
    rollout, rows = trainer.rollout(), trainer.rows()
    assert len(prompts) == len(rows)
    return {
        "prompt_ids": [rollout.prompts[row // rollout.group_size] for row in rows],
        "completion_ids": [rollout.responses[row] for row in rows],
        "logprobs": None,
        "reward": [rollout.rewards[row] for row in rows],
    }


def judged(reward: list[float], **_: Any) -> list[float]:
    """The stored rewards."""
    return reward


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--fsdp", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    host.shuffle_sequence_dict = lambda batch: batch  # the stored mini-batches are an order already
    golden, ranks = load(), int(os.environ.get("WORLD_SIZE", "1"))
    with tempfile.TemporaryDirectory() as folder:
        args = GSPOConfig(
            folder, objective=GSPO.with_clip(CLIP.low, CLIP.high), max_steps=20, use_cpu=True, bf16=False, report_to=[],
            per_device_train_batch_size=12 // (given.accumulation * ranks), gradient_accumulation_steps=given.accumulation,
            steps_per_generation=4 * given.accumulation, num_generations=6, shuffle_dataset=False, save_strategy="no",
            max_grad_norm=golden.options["max_grad_norm"], logging_steps=1, disable_tqdm=True,
            gradient_checkpointing=given.checkpointing,
        )  # fmt: skip
        trainer = Stored(golden, given.accumulation, args, given.fsdp)
        trainer.report.add = lambda _, *rest: trainer.keep(*rest)
        assert trainer.accelerator.num_processes == ranks
        trainer.train()
    if given.fsdp:
        assert all(isinstance(p, DTensor) for p in trainer.model.parameters())
    after = parameters(trainer)
    if trainer.accelerator.is_main_process:
        given.out.mkdir(exist_ok=True, parents=True)
        (given.out / "updates.json").write_text(json.dumps(trainer.updates), encoding="utf-8")
        save_file(after, given.out / "parameters.safetensors")


if __name__ == "__main__":
    main()
