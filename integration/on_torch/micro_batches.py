"""How the responses of a mini-batch are cut into forward passes."""

from __future__ import annotations

import torch
from torch import Tensor

from integration.on_torch.sampling.rollout import Responses
from integration.options.config import Config


def micro_batches(config: Config, responses: Responses, live: Tensor) -> list[Tensor]:
    """The rows `live`, in pieces of --micro-batch-size rows or --micro-batch-tokens tokens; in one piece without either."""
    if not len(live):
        return []
    if config.micro_batch_tokens is None:
        return list(live.split(config.micro_batch_size or len(live)))
    prompts, answers = (x[live].sum(-1).tolist() for x in (responses.prompt_mask, responses.mask))
    pieces = by_tokens(list(zip(prompts, answers, strict=True)), config.micro_batch_tokens)
    return [live[torch.tensor(piece)] for piece in pieces]


def by_tokens(lengths: list[tuple[int, int]], limit: int) -> list[list[int]]:
    """Indices in pieces of at most `limit` tokens, padding included; an index with more than that is a piece of its own.

    Args:
        lengths: (prompt, response) in tokens; a piece is as wide as its longest prompt and its longest response together.
        limit: tokens, rows times width.

    >>> by_tokens([(2, 3), (2, 9), (2, 8), (2, 1)], 22)
    [[1, 2], [0, 3]]
    """
    pieces: list[list[int]] = []
    prompt = answer = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-sum(lengths[i]), i)):  # alike in length, little padding
        wider = max(prompt, lengths[index][0]), max(answer, lengths[index][1])
        if pieces and (len(pieces[-1]) + 1) * sum(wider) <= limit:
            pieces[-1].append(index)
            prompt, answer = wider
        else:
            pieces.append([index])
            prompt, answer = lengths[index]
    return pieces
