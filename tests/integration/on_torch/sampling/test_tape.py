"""Routes that are written down while sampling are those of one pass over the whole text, with a KV cache or without."""

from __future__ import annotations

import torch
from support.runs.moes import batch, recorded, tiny

from integration.on_torch.sampling.tape import Tape


def test_a_sampler_that_reads_everything_again_adds_one_column_a_step() -> None:
    """Two prompts, two responses to each, of three and two tokens: the third response ends early."""
    model, (tokens, attention) = tiny(), batch()
    tokens, attention = tokens[[1, 1, 3, 3]], attention[[1, 1, 3, 3]]
    tokens[:, 6:] = torch.randint(1, 32, (4, 3), generator=torch.Generator().manual_seed(5))
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]]) > 0
    tape = Tape(model, mask, temperature=1.0, logp=torch.zeros(4) > 0, routes=True)
    steps = [([0, 2], 6, [0, 0, 1, 1]), ([0, 1, 2, 3], 7, [0, 1, 2, 3]), ([0, 1, 3], 8, [0, 1, -1, 2])]
    for rows, width, source in steps:
        given = attention[rows, :width]
        places = (given.cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad(), tape.forward(torch.tensor(source)):
            model(input_ids=tokens[rows, :width], attention_mask=given, position_ids=places, use_cache=False)
    routes = tape.routes(attention[:, :6])
    assert routes is not None
    fed = torch.cat([attention[:, :6] > 0, mask & mask.roll(-1, 1) & (torch.arange(3) < 2)], 1)
    assert torch.equal(routes.routed, fed)
    assert routes.routed.sum() > 20
    _, whole = recorded(model, tokens, attention)
    assert torch.equal(routes.experts[:, fed], whole.experts[:, fed])
