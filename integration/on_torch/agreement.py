"""Before anything is trained: does the trainer compute the log-probs of the tokens that the sampler draws?"""

from __future__ import annotations

from typing import Any

import torch
from gspo_torch import ModelHead, model_head, token_logp
from torch import Tensor

from gspo_core import Padded
from integration.on_torch.growing import positions
from integration.on_torch.rollout import Sampler, predicting_states
from integration.options.errors import TrainingFailure, UserError
from integration.shared.prompts import left_pad
from integration.shared.tasks import Example

LARGE = 1000.0
"""The largest logit that is put through what follows the head: a cap shows there, however small the logits are."""


def require_agreement(model: Any, sampler: Sampler, examples: list[Example]) -> None:
    """UserError naming the model's class if its log-probs cannot be computed from hidden states, or sampled as they are.

    The logits of a prompt have to be the LM head's product with the scale or cap of the config, as they are and enlarged to
    `LARGE`; and the sampler's own log-probs, of prompts of several lengths padded on the left, those of a training pass.
    """
    name = type(model).__name__
    try:
        _require_head(model, sampler, examples[0])
        _require_equal(model, sampler, examples)
    except (UserError, TrainingFailure):
        raise
    except Exception as error:  # whatever a model that was never tried here may raise: it ends in one sentence
        said = (str(error).splitlines() or [""])[0]
        raise UserError(f"--model: {name} cannot be sampled from and scored: {type(error).__name__}: {said}") from error


@torch.no_grad()
def _require_head(model: Any, sampler: Sampler, example: Example) -> None:
    """Look at all logits of a prompt, twice."""
    ids, mask = (torch.from_numpy(x).to(sampler.device) for x in left_pad([sampler.prompter.encode(example)], 0))
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
    head, layer, enlarged = _head_of(model), model.get_output_embeddings(), []

    def enlarge(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        enlarged.append(output.float() * (LARGE / output.float().abs().max()))
        return enlarged[0].to(output.dtype)

    product = layer(model.get_decoder()(**inputs).last_hidden_state.to(layer.weight.dtype)).float()
    raw = model(**inputs).logits
    handle = layer.register_forward_hook(enlarge)
    try:
        large = model(**inputs).logits.float()
    finally:
        handle.remove()
    allowed = 0.05 if raw.dtype.itemsize == 2 else 1e-3  # logits that are rounded to 16 bits
    for found, products in ((raw.float(), product), (large, enlarged[0])):
        expected = head.transformed(products)
        gap = float((found - expected).abs().max() / expected.abs().max())
        if not gap <= allowed:
            raise UserError(
                f"--model: the logits of {type(model).__name__} differ from hidden states times LM head by {gap:.2g} of the "
                "largest: it does something to them that its config does not name"
            )


def _head_of(model: Any) -> ModelHead:
    try:
        return model_head(model)
    except ValueError as error:
        raise UserError(f"--{error}") from error


@torch.no_grad()
def _require_equal(model: Any, sampler: Sampler, examples: list[Example]) -> None:
    """Draw two responses to each prompt, write the sampler's log-probs down, and compute them again in a training pass."""
    lengths = {len(sampler.prompter.encode(example)): example for example in examples}
    some = [example for _, example in sorted(lengths.items())]
    recording = Sampler(
        model, sampler.prompter, min(6, sampler.max_new_tokens), sampler.temperature, sampler.device,
        torch.empty(0, dtype=torch.int64, device=sampler.device), keep_logp=True,
    )  # fmt: skip
    drawn, head = recording.draw(some, 2, recording.chooser(0)), _head_of(model)
    assert drawn.logp is not None
    layout = Padded(drawn.mask)
    mine = token_logp(
        predicting_states(model, drawn), head.weight, drawn.tokens, layout=layout, **head.options(sampler.temperature)
    )
    gap = (mine - drawn.logp)[drawn.mask].abs()
    low = model.get_decoder()(input_ids=drawn.tokens[:1], use_cache=False).last_hidden_state.dtype.itemsize == 2
    allowed = 0.5 if low else 2e-3
    if not float(gap.max()) <= allowed:
        raise UserError(
            f"--model: of {type(model).__name__} the sampler's log-probs differ from those of a training pass by up to "
            f"{float(gap.max()):.2g} nats ({allowed:g} allowed): its cache, its padding or its positions are not as assumed"
        )
