"""Peak memory of the training script's own optimizer steps on the CPU, beside what gspo-scale counts.

    .venv/bin/python benchmarks/update_memory.py [--only NAME] [--out FILE]

A process for each shape takes two optimizer steps (`integration.on_torch.training.update`, AdamW) on a Qwen3 with random
weights. Its peak is the most resident memory during both, less what was resident before the model was made; libraries and
their buffers were loaded by a step of a tiny model. The C library is told to give freed blocks back (mallopt): its heap
otherwise keeps up to two thirds more, which has nothing to do with a GPU's allocator. One thread.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from gspo_scale import Memory, Shape, Spread, Work, memory
from stopwatch import MIB, in_child, machine, peak_of

from gspo_core import Padded
from integration.on_torch.batches import MiniBatch
from integration.on_torch.parallel.processes import Processes
from integration.on_torch.parallel.wrapping import OnePiece
from integration.on_torch.passes import Old
from integration.on_torch.qwen3 import ExpertSizes, Qwen3Sizes, build_qwen3
from integration.on_torch.recompute import enable_recomputing
from integration.on_torch.sampling.reading import FASTEST
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.training import update
from integration.options.config import Config
from integration.shared.measure import Rollup
from integration.shared.pretrained import compute_in
from integration.shared.ranks import OneProcess

M_MMAP_THRESHOLD = -3
"""Of malloc.h: blocks from so many bytes on are returned when they are freed."""
RESULTS = Path(__file__).parent / "results" / "update_memory.json"


class Case(NamedTuple):
    """A model and the micro-batch of its update."""

    sizes: Qwen3Sizes
    rows: int
    work: Work


def _sizes(**given: Any) -> Qwen3Sizes:
    return Qwen3Sizes(**{"heads": 8, "key_value_heads": 4, "head": 64, "tied": True, **given})


CASES = {
    "small": Case(_sizes(vocabulary=16000, layers=6, hidden=256, feed_forward=768), 4, Work(64, 320)),
    "states": Case(_sizes(vocabulary=32000, layers=12, hidden=768, feed_forward=2304), 4, Work(64, 192)),
    "activations": Case(_sizes(vocabulary=8000, layers=8, hidden=256, feed_forward=768), 4, Work(256, 1024)),
    "vocabulary": Case(_sizes(vocabulary=151936, layers=4, hidden=512, feed_forward=1024), 4, Work(64, 448)),
    "bfloat16, recomputing": Case(
        _sizes(vocabulary=32000, layers=12, hidden=512, feed_forward=1536),
        8,
        Work(64, 448, dtype="bfloat16", checkpointing=True),
    ),
    "experts": Case(
        _sizes(vocabulary=16000, layers=6, hidden=256, feed_forward=256, experts=ExpertSizes(16, 4, 384)), 4, Work(64, 448)
    ),
}


def counted(case: Case) -> Memory:
    """What gspo-scale counts for the update alone."""
    sizes, experts = case.sizes, case.sizes.experts
    shape = Shape(
        sizes.layers, sizes.hidden, sizes.heads, sizes.key_value_heads, sizes.head,
        sizes.feed_forward if experts is None else experts.width, sizes.vocabulary, sizes.tied,
        experts=0 if experts is None else experts.count, active=0 if experts is None else experts.top_k,
        extra=2 * sizes.layers * sizes.head,
    )  # fmt: skip
    rows = replace(case.work, prompts=1, group=case.rows, mini_batches=1, sampling=False)
    return memory(shape, rows, Spread())


def measured(name: str) -> dict[str, Any]:
    """Peak of a case's second step, beside what was counted; for a process of its own."""
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**18)
    case = CASES[name]
    two_steps(tiny(case))
    model, peak = peak_of(lambda: two_steps(case))
    needed = counted(case)
    parts = {part: round(size / MIB, 1) for part, size in needed._asdict().items() if size}
    return {
        "case": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": case.rows * case.work.length,
        "measured_mib": round(peak, 1),
        "counted_mib": round(needed.peak / MIB, 1),
        "counted_over_measured": round(needed.peak / MIB / peak, 3),
        "parts_mib": parts,
    }


def tiny(like: Case) -> Case:
    """A tiny case with another's options, so that the same code runs."""
    experts = None if like.sizes.experts is None else ExpertSizes(4, 2, 16)
    sizes = _sizes(vocabulary=500, layers=2, hidden=32, feed_forward=64, experts=experts)
    return Case(sizes, 2, replace(like.work, prompt=4, response=4))


def two_steps(case: Case) -> Any:
    """The model after two optimizer steps: the first makes gradients and moments."""
    steps = Steps(case)
    steps.step()
    steps.step()
    return steps.trainer.model


class Steps:
    """A model, and optimizer steps on random responses that are all of full length."""

    def __init__(self, case: Case) -> None:
        work, rows = case.work, case.rows
        model = build_qwen3(case.sizes, 0)
        compute_in(model, getattr(torch, work.dtype))
        if work.checkpointing:
            enable_recomputing(model)
        config = Config(dtype=work.dtype, gradient_checkpointing=work.checkpointing, lr=1e-6, lr_warm_up=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.0, fused=True)
        self.trainer: Any = SimpleNamespace(
            model=model, config=config, optimizer=optimizer, objective=config.build_objective(), mixture=False,
            sampler=SimpleNamespace(reading=FASTEST), optimizer_steps=0, bad_steps=0, step=0, passes=OnePiece(model),
            processes=Processes(), ranks=OneProcess(),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        prompts, tokens = (
            torch.randint(case.sizes.vocabulary, (rows, width), generator=generator) for width in (work.prompt, work.response)
        )
        mask = torch.ones(tokens.shape, dtype=torch.bool)
        prompt_mask = torch.ones_like(prompts)
        prompt_mask[0, 0] = 0  # one is shorter: a batch of one length has no mask
        part = Responses(prompts, prompt_mask, tokens, mask)
        advantage = torch.ones(rows)
        advantage[::2] = -1.0
        count = self.trainer.objective.count(Padded(mask))
        self.batch = MiniBatch([(part, advantage)], torch.as_tensor(float(count)), None, counted=1)
        uniform = -torch.tensor(float(case.sizes.vocabulary)).log()
        self.olds = [Old(torch.full(tokens.shape, float(uniform)))]

    def step(self) -> None:
        """One optimizer step."""
        update(self.trainer, self.batch, self.olds, Rollup(self.trainer.objective))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), help="one case; --out is then needed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.only is not None and arguments.out == RESULTS:
        parser.error("--only: give --out, the committed results have every case")
    torch.set_num_threads(1)
    rows = []
    for name in CASES if arguments.only is None else [arguments.only]:
        row = in_child(lambda name=name: measured(name))
        print(json.dumps(row), flush=True)
        rows.append(row)
    arguments.out.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
