"""Before anything is trained: does a model compute with its columns spread over ranks what it computes on one?"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist

from integration.on_torch.parallel.context import Context
from integration.on_torch.sampling.growing import positions
from integration.on_torch.sampling.reading import Reading, head_inputs
from integration.on_torch.sampling.rollout import Responses
from integration.options.errors import UserError

PROMPT, ANSWER, PADDING = 12, 13, (0, 5)
"""Columns of the texts that are compared, and how many of them are padding, in each of two rows."""


def require_context(model: Any, context: Context, reading: Reading) -> None:
    """UserError, on every rank, that names a model whose states change when its tokens are spread over the group's ranks.

    So do the states of recurrent and convolutional layers, which read their neighbours without attention, and of attention that
    does not go through transformers' interface. What is compared are random tokens, padded on the left. And a model that is
    right without padding only is refused: `reading` is what `require_agreement` found.
    """
    name, low = type(model).__name__, model.dtype.itemsize == 2
    if not reading.padded:
        raise UserError(f"--context-parallel: {name} is right without padding only, and columns are padded to be shared out")
    try:
        gap, said = _gap(model, context), ""
    except UserError:
        raise  # by the model's class, and so on every rank
    except Exception as error:  # whatever a model may raise that is given a part of its columns
        gap, said = math.inf, f": {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    worst = torch.tensor(gap, device=model.device)
    dist.all_reduce(worst, dist.ReduceOp.MAX, group=context.group)
    if not float(worst) <= (0.05 if low else 1e-3):
        raise UserError(
            f"--context-parallel: the states of {name} change by {float(worst):.2g} of the largest when its tokens are spread "
            f"over {dist.get_world_size(context.group)} processes: its layers mix tokens otherwise than by attention{said}"
        )


@torch.no_grad()
def _gap(model: Any, context: Context) -> float:
    """The largest difference of this rank's columns, over the largest state."""
    generator, device = torch.Generator().manual_seed(0), model.device
    ids = torch.randint(model.config.get_text_config().vocab_size, (len(PADDING), PROMPT + ANSWER), generator=generator)
    mask = torch.arange(PROMPT + ANSWER) >= torch.tensor(PADDING)[:, None]
    ids, mask = ids.to(device), mask.to(device)
    part = Responses(ids[:, :PROMPT], mask[:, :PROMPT].long(), ids[:, PROMPT:], mask[:, PROMPT:])
    ids, there = ids[:, :-1], mask[:, :-1]
    where = {"attention_mask": there.long(), "position_ids": positions(there.long())}
    expected = head_inputs(model, ids, use_cache=False, **where)
    with context.split(model, part) as split:
        found, mine = split.states(), split.mine
    real = (mine < ids.shape[1]).nonzero()[:, 0]
    difference = (found[:, real] - expected[:, mine[real]])[there[:, mine[real]]]
    return float(difference.abs().max() / expected[there].abs().max())
