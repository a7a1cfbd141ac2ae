"""Two processes that count what a model sends in a forward and a backward pass. Started by tests/scale/test_sent.py."""

from __future__ import annotations

import datetime
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from support.traffic import Traffic
from torch.distributed.device_mesh import init_device_mesh

from integration.on_torch.parallel.context import Context
from integration.on_torch.parallel.processes import Processes, World
from integration.on_torch.parallel.wrapping import wrapped
from integration.on_torch.qwen3 import Qwen3Sizes, build_qwen3
from integration.on_torch.recompute import enable_recomputing, recomputing
from integration.on_torch.sampling.rollout import Responses, predicting_states
from integration.options.config import Config

WORLD, ROWS, PROMPT, RESPONSE = 2, 3, 4, 8
SIZES = Qwen3Sizes(vocabulary=40, layers=3, hidden=16, feed_forward=24, heads=4, key_value_heads=2, head=6, tied=True)


def responses() -> Responses:
    """Of one length, but for a prompt: there is a mask."""
    generator = torch.Generator().manual_seed(0)
    ids, tokens = (torch.randint(SIZES.vocabulary, (ROWS, width), generator=generator) for width in (PROMPT, RESPONSE))
    there = torch.ones_like(ids)
    there[0, 0] = 0
    return Responses(ids, there, tokens, torch.ones(tokens.shape, dtype=torch.bool))


def counted(work: Any) -> dict[str, int]:
    """Bytes of each kind of collective."""
    with Traffic() as traffic:
        work()
    found: Counter[str] = Counter()
    for name, size in traffic.calls:
        found[name] += size
    return dict(found)


def one(kind: str, *, again: bool) -> dict[str, int]:
    """Of an update of a model spread as `kind` says, with or without recomputing."""
    context = WORLD if kind == "context" else 1
    mesh = init_device_mesh("cpu", (WORLD // context, context, 1), mesh_dim_names=("data", "context", "vocabulary"))
    model, part = build_qwen3(SIZES, 0), responses()
    if again:
        enable_recomputing(model)
    around = recomputing(model) if again else nullcontext()
    if kind == "context":
        with Context(mesh["context"].get_group()).split(model, part) as split, around:
            return counted(lambda: split.states().sum().backward())
    config = Config(parallel=kind, model="small")  # type: ignore[arg-type]  # of the two that there are
    passes = wrapped(model, config, Processes(World(torch.device("cpu")), mesh=mesh), part.prompt_ids[:1])

    def update() -> None:
        passes.run(lambda whole: predicting_states(whole, part).sum() + whole.lm_head.weight.sum()).backward()

    with around:
        update()  # DDP and FSDP2 make themselves ready in a first step
        return counted(update)


def main(rank: int, folder: str) -> None:
    """Every way; answers go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", datetime.timedelta(seconds=60), WORLD, rank)
    found = {f"{kind}, {again}": one(kind, again=again) for kind in ("ddp", "fsdp", "context") for again in (False, True)}
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
