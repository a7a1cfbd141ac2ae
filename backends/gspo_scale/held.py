"""Bytes on each GPU at the peak of a run, by what they are for: counted from sizes alone, before anything is loaded."""

from __future__ import annotations

from typing import NamedTuple

from .plans import Spread, Work, ceil, rows_at_once
from .shapes import Shape

GIB = 2**30
TILES = 256 * 2**20
"""Of the LM head: logits are made in tiles of at most so many bytes."""
SPARE = 1.1
"""For fragmentation, libraries and what is not counted."""


class Memory(NamedTuple):
    """Bytes on one GPU. Sampling and updating take turns; weights, gradients and moments stay.

    >>> Memory(4, 4, 8, gathered=0, activations=10, head=3, mask=1, sampling=20).peak
    36
    """

    weights: int
    """float32, and in bfloat16 the copies that products are computed with."""
    gradients: int
    """float32; ddp has them twice, in its buckets."""
    moments: int
    """AdamW's two, float32."""
    gathered: int
    """fsdp's: two layers, embedding and head in full, and the gradient of a layer, in float32."""
    activations: int
    """Kept from forward to backward."""
    head: int
    """A tile of logits, and the gradient of the LM head before it is added to the others."""
    mask: int
    """Of attention, for padded sequences: length × length for each, and in numbers once more in every layer that keeps one."""
    sampling: int
    """Keys and values of all responses that are sampled at a time, and the logits of their next tokens. With fsdp
    also the whole weights, and with checkpointing in bfloat16 their copies, which updates keep of one layer at a time."""

    @property
    def states(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.moments

    @property
    def updating(self) -> int:
        """What an update needs beside the states."""
        return self.gathered + self.activations + self.head + self.mask

    @property
    def peak(self) -> int:
        """States, and the larger of the two phases."""
        return self.states + max(self.sampling, self.updating)

    def largest(self) -> str:
        """The name of the largest part."""
        return max(self._asdict().items(), key=lambda part: part[1])[0]


def memory(shape: Shape, work: Work, spread: Spread, trained: int | None = None) -> Memory:
    """Of one GPU.

    Args:
        shape: the model.
        work: what is sampled and trained.
        spread: over which ranks.
        trained: parameters with a gradient, those of adapters beside a frozen LM head; None: all.

    Returns: `Memory`, in bytes.

    Raises: nothing of its own: `Shape`, `Work` and `Spread` refuse what is wrong.

    >>> from gspo_scale import PRESETS, Spread, Work
    >>> one = memory(PRESETS["qwen3-0.6b"], Work(), Spread())
    >>> one.states == 16 * 596049920
    True

    With weights, gradients and moments on 8 GPUs each:

    >>> memory(PRESETS["qwen3-8b"], Work(dtype="bfloat16"), Spread(8, "fsdp")).states // GIB
    15
    """
    total, item = shape.parameters, work.item
    moving = total if trained is None else trained
    sharded = spread.parallel == "fsdp" and spread.gpus > 1
    share = spread.gpus if sharded else 1
    copies = item * total if item == 2 else 0
    kept_copies = 0 if work.checkpointing or sharded else copies  # else a layer's at a time, but for a pass without gradient
    whole = copies - kept_copies + 4 * (total - ceil(total, share))
    buckets = 2 if spread.parallel == "ddp" and spread.data * spread.context > 1 else 1
    outside = (1 if shape.tied else 2) * shape.head
    rows, sampled = rows_at_once(work, spread), ceil(work.responses, spread.gpus)
    tokens, keys = ceil(rows * work.length, spread.context), 2 * item * shape.keys
    layers = 1 if work.checkpointing else shape.layers
    gathered_keys = layers * rows * work.length * keys if spread.context > 1 else 0  # of all ranks of a sequence
    tile = min(TILES, ceil(4 * rows * work.response * shape.vocabulary, spread.vocabulary))
    each = work.length * shape.layers * keys + 20 * shape.vocabulary  # logits in float32, and in float64 for cumulative sums
    return Memory(
        weights=ceil(4 * total + kept_copies, share),
        gradients=ceil(moving * 4 * buckets, share),
        moments=ceil(moving * 8, share),
        gathered=4 * (3 * shape.layer + outside) if sharded else 0,
        activations=activations(shape, work, tokens) + gathered_keys,
        head=tile + (ceil(4 * shape.head, spread.vocabulary) if trained is None else 0),
        mask=tokens * work.length * (1 + item * layers) if work.padded else 0,
        sampling=work.sampling * (sampled * each + whole),
    )


def activations(shape: Shape, work: Work, tokens: int) -> int:
    """Bytes that `tokens` keep from forward to backward; of one layer alone, and each layer's input, if recomputed.

    Args:
        shape: the model.
        work: its precision, and whether layers are computed again.
        tokens: of one forward pass on one GPU.

    Returns: bytes. The mask of padded sequences is not among them.

    Raises: nothing of its own.

    >>> from gspo_scale import PRESETS, Work
    >>> [activations(PRESETS["qwen3-0.6b"], Work(checkpointing=recompute), tokens=1) for recompute in (False, True)]
    [3796992, 262144]
    """
    item, stream = work.item, 4 * shape.hidden  # the residual stream is float32
    inner = item * 4 * shape.intermediate
    if shape.active:  # experts compute in float32, on copies of their tokens
        inner = 4 * shape.active * (3 * shape.hidden + 4 * shape.intermediate)
    layer = 5 * stream + item * (2 * shape.hidden + 5 * shape.queries + 4 * shape.keys) + inner
    kept = shape.layers * stream + layer if work.checkpointing else shape.layers * layer
    return tokens * (kept + 3 * stream)
