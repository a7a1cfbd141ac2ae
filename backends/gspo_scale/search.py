"""Which layout fits on so many GPUs with the least traffic, and what stops a run where none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from gspo_core.backend import as_whole

from .held import GIB, SPARE, Memory, memory
from .plans import Spread, Work, rows_at_once
from .sent import Traffic, traffic
from .shapes import Shape

USABLE = 0.95
"""Of a GPU's memory: the driver and the communication library have the rest."""


class Found(NamedTuple):
    """A layout, and what it needs on each GPU.

    >>> from gspo_scale import PRESETS, Work
    >>> one = best(PRESETS["qwen3-0.6b"], Work(), 1, 80)
    >>> one.fits, one.rows
    (True, 8)
    """

    spread: Spread
    rows: int
    """Sequences in a forward pass on a data-parallel rank."""
    memory: Memory
    traffic: Traffic
    fits: bool

    def needed(self) -> float:
        """GiB per GPU, with something to spare."""
        return SPARE * self.memory.peak / GIB


def found(shape: Shape, work: Work, spread: Spread, gigabytes: float) -> Found:
    """One layout on GPUs of so many GB, as their makers count."""
    needed = memory(shape, work, spread)
    fits = SPARE * needed.peak <= USABLE * gigabytes * 1e9
    return Found(spread, rows_at_once(work, spread), needed, traffic(shape, work, spread), fits)


def best(shape: Shape, work: Work, gpus: int, gigabytes: float) -> Found:
    """The layout that fits and sends the fewest bytes; if none fits, the one that needs the least memory.

    Data-parallel ranks are never more than the responses of a step. Ranks that share the vocabulary all compute the same
    layers, so that fewer of them are preferred to less traffic. Without `micro_batch_tokens` forward passes of a whole
    mini-batch and of 1, 2, 4, ... sequences are tried.

    Args:
        shape: the model.
        work: what is sampled and trained.
        gpus: how many; powers of two have the most layouts.
        gigabytes: memory of each, as its maker counts.

    Returns: `Found`; its `fits` says whether it does.

    Raises: ValueError for a number of GPUs below 1.

    >>> from gspo_scale import PRESETS, Work
    >>> str(best(PRESETS["qwen3-0.6b"], Work(), 8, 80).spread), str(best(PRESETS["qwen3-8b"], Work(), 8, 80).spread)
    ('ddp 8', 'fsdp 8')
    """
    rows = [] if work.micro_batch_tokens is not None else [2**power for power in range(work.per_step.bit_length())]
    tries = [work, *(replace(work, micro_batch_tokens=count * work.length) for count in rows)]
    tried = [found(shape, one, spread, gigabytes) for one in tries for spread in spreads(work, gpus)]
    fitting = [one for one in tried if one.fits]
    if fitting:
        return min(fitting, key=lambda one: (one.spread.vocabulary, one.traffic.total, -one.rows, one.memory.peak))
    return min(tried, key=lambda one: one.memory.peak)


def spreads(work: Work, gpus: int) -> Iterator[Spread]:
    """Every layout of so many GPUs in which each data-parallel rank has a response of the step.

    Args:
        work: what is trained.
        gpus: how many.

    Returns: the layouts, one after another; at most 8 ranks share the vocabulary.

    Raises: ValueError for a number of GPUs below 1.

    >>> from gspo_scale import Work
    >>> [str(spread) for spread in spreads(Work(), 2)]
    ['ddp 2', 'ddp 1 × vocabulary 2', 'ddp 1 × context 2', 'fsdp 2', 'fsdp 1 × vocabulary 2', 'fsdp 1 × context 2']
    """
    gpus = as_whole("gpus", gpus, 1)
    sizes = [size for size in (2**power for power in range(gpus.bit_length())) if gpus % size == 0]
    for parallel in ("ddp", "fsdp") if gpus > 1 else ("ddp",):
        for context in sizes:
            for vocabulary in sizes:
                if gpus % (context * vocabulary) == 0 and vocabulary <= 8:
                    spread = Spread(gpus, parallel, context, vocabulary)
                    if spread.data <= work.per_step or context * vocabulary == gpus:
                        yield spread
