"""What is trained, and how it is spread: the tokens of an optimizer step, and the ranks that share its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gspo_core.backend import as_whole

Parallel = Literal["ddp", "fsdp"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Work:
    """A rollout and its updates.

    Raises ValueError for a number that is none, or too small, by its name.

    >>> work = Work(prompt=200, response=800)
    >>> work.length, work.responses, work.per_step
    (1000, 64, 16)
    """

    prompt: int = 256
    """Tokens of the longest prompt."""
    response: int = 1024
    """Tokens of the longest response."""
    prompts: int = 8
    """In a rollout."""
    group: int = 8
    """G: responses to each prompt."""
    mini_batches: int = 4
    """Optimizer steps on a rollout."""
    micro_batch_tokens: int | None = None
    """In one forward pass on one data-parallel rank; None: all that the rank has of a mini-batch. At least one sequence."""
    dtype: Precision = "float32"
    """Of the products; weights, gradients and moments are float32."""
    checkpointing: bool = False
    """Layers keep their inputs alone, and compute the rest again in the backward pass."""
    padded: bool = True
    """Sequences of unequal lengths share a forward pass, with a mask of rows × length × length; False: without such a mask."""
    sampling: bool = True
    """The responses are sampled on the same GPUs, all of a rollout at a time; False: elsewhere."""

    def __post_init__(self) -> None:
        for name in ("prompt", "response", "prompts", "group", "mini_batches"):
            object.__setattr__(self, name, as_whole(name, getattr(self, name), 1))
        if self.micro_batch_tokens is not None:
            object.__setattr__(self, "micro_batch_tokens", as_whole("micro_batch_tokens", self.micro_batch_tokens, 1))
        if self.dtype not in get_args(Precision):
            raise ValueError(f"dtype: expected one of {', '.join(get_args(Precision))}, got {self.dtype!r}")

    @property
    def length(self) -> int:
        """Tokens of a prompt and its response."""
        return self.prompt + self.response

    @property
    def responses(self) -> int:
        """Of a rollout."""
        return self.prompts * self.group

    @property
    def per_step(self) -> int:
        """Responses of an optimizer step."""
        return ceil(self.responses, self.mini_batches)

    @property
    def item(self) -> int:
        """Bytes of a number in the products."""
        return 2 if self.dtype == "bfloat16" else 4


@dataclass(frozen=True)
class Spread:
    """GPUs = data × context × vocabulary.

    Raises ValueError for a number that is none, for GPUs that the other two do not divide, and for an unknown `parallel`.

    >>> Spread(gpus=8, context=2).data
    4
    """

    gpus: int = 1
    parallel: Parallel = "ddp"
    """ddp: every rank has all weights, gradients and moments; fsdp: each has its share, and layers are gathered one by one."""
    context: int = 1
    """Ranks that share the tokens of a sequence."""
    vocabulary: int = 1
    """Ranks that share the rows of the LM head."""

    def __post_init__(self) -> None:
        for name in ("gpus", "context", "vocabulary"):
            object.__setattr__(self, name, as_whole(name, getattr(self, name), 1))
        if self.gpus % (self.context * self.vocabulary):
            raise ValueError(
                f"gpus: expected a multiple of context × vocabulary = {self.context * self.vocabulary}, got {self.gpus}"
            )
        if self.parallel not in get_args(Parallel):
            raise ValueError(f"parallel: expected one of {', '.join(get_args(Parallel))}, got {self.parallel!r}")

    @property
    def data(self) -> int:
        """Ranks, or groups of ranks, with sequences of their own."""
        return self.gpus // (self.context * self.vocabulary)

    def __str__(self) -> str:
        parts = [f"{self.parallel} {self.data}" if self.gpus > 1 else "one GPU"]
        parts += [
            f"{name} {count}" for name, count in (("context", self.context), ("vocabulary", self.vocabulary)) if count > 1
        ]
        return " × ".join(parts)


def rows_at_once(work: Work, spread: Spread) -> int:
    """Sequences in one forward pass on one data-parallel rank, at least one."""
    mine = ceil(work.per_step, spread.data)
    return mine if work.micro_batch_tokens is None else max(1, min(mine, work.micro_batch_tokens // work.length))


def passes(work: Work, spread: Spread) -> int:
    """Micro-batches of an optimizer step on a rank."""
    return ceil(ceil(work.per_step, spread.data), rows_at_once(work, spread))


def ceil(number: int, divisor: int) -> int:
    """number / divisor, rounded up.

    >>> ceil(7, 2), ceil(6, 2), ceil(0, 2)
    (4, 3, 0)
    """
    return -(-number // divisor)
