"""A checkpoint of the PyTorch script: model.safetensors, config, tokenizer, trainer.pt (random states, counters), optimizer/.

The optimizer's state is in the format of torch.distributed.checkpoint, which any number of processes reads. Every process
writes its part of it; the rest is written by process 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from integration.options.errors import UserError
from integration.records.json_lines import Row
from integration.shared.ranks import Ranks

OPTIMIZER = "optimizer"


def write_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, tokenizer: Any, state: Row, ranks: Ranks
) -> None:
    """Fill a new folder, which all processes see."""
    whole = {}
    if ranks.count > 1:
        values = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {n for n, _ in model.named_parameters()}
        whole["state_dict"] = {name: value for name, value in values.items() if name not in tied}
    if ranks.rank == 0:
        model.save_pretrained(folder, **whole)
        tokenizer.save_pretrained(folder)
        with (folder / "trainer.pt").open("wb") as stream:  # by Python, which knows why a write failed; torch does not
            torch.save({**state, "model": fingerprint(model)}, stream)
    if optimizer.state:  # without a step there is none, and asking for it would take one
        parts = {OPTIMIZER: get_optimizer_state_dict(model, optimizer)}
        with _of_one_process(ranks):
            try:
                save(parts, checkpoint_id=folder / OPTIMIZER, no_dist=ranks.count == 1)
            except CheckpointException as error:  # no Exception; it holds those of all processes
                raise next(iter(error.failures.values()))[0] from error


def load_state(checkpoint: Path, model: Any, optimizer: torch.optim.Optimizer, ranks: Ranks) -> Row:
    """The trainer's state of a checkpoint, the optimizer's put in place; UserError if it is of another model than the given."""
    try:
        state: Row = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything; all of it means the same
        raise UserError(f"--resume: {checkpoint}/trainer.pt cannot be read: {type(error).__name__} {error}") from error
    if state["model"] != fingerprint(model):
        kinds = f"{state['model']}, not {fingerprint(model)}"
        raise UserError(f"--resume: {checkpoint} is a checkpoint of another model ({kinds})")
    if "optimizer" in state:
        raise UserError(f"--resume: {checkpoint} is of an earlier version, whose optimizer's state was stored in another way")
    if (checkpoint / OPTIMIZER).exists():
        parts = {OPTIMIZER: get_optimizer_state_dict(model, optimizer)}
        with _of_one_process(ranks):
            try:
                load(parts, checkpoint_id=checkpoint / OPTIMIZER, no_dist=ranks.count == 1)
            except CheckpointException as error:
                first = next(iter(error.failures.values()))[0]
                raise UserError(f"--resume: {checkpoint / OPTIMIZER} cannot be read: {type(first).__name__} {first}") from error
        set_optimizer_state_dict(model, optimizer, parts[OPTIMIZER])
    return state


@contextmanager
def _of_one_process(ranks: Ranks) -> Iterator[None]:
    """Without the warning that there is one process, where there is one."""
    with warnings.catch_warnings():
        if ranks.count == 1:
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def fingerprint(model: Any) -> str:
    """A model's kind and size, to tell one checkpoint from another's."""
    shapes = sorted((name, tuple(p.shape)) for name, p in model.named_parameters())
    return f"{type(model).__name__}, {len(shapes)} parameters of {sum(p.numel() for p in model.parameters()):,} numbers"
