"""Before anything is trained: does the trainer compute the log-probs of the tokens that the sampler draws?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gspo_torch import ModelHead
from torch import Tensor

from integration.on_torch.sampling.growing import Growing, Unpadded, without_cache
from integration.on_torch.sampling.head_check import head_of, logits_of, require_head
from integration.on_torch.sampling.reading import READINGS, Reading
from integration.on_torch.sampling.rollout import Sampler
from integration.options.errors import TrainingFailure, UserError
from integration.tasks.prompts import left_pad
from integration.tasks.task import Example

TOKENS = 6
"""Drawn for each response."""


class Texts(NamedTuple):
    """Prompts of several lengths, padded on the left, with two responses each; every second response ends early."""

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    mask: Tensor


class Known(NamedTuple):
    """Of each text alone."""

    head: ModelHead
    logits: Tensor
    """[N, T, V] over the temperature."""
    norms: Tensor
    """[parameters] of the gradient of the log-probs."""
    temperature: float
    allowed: Precision


class Precision(NamedTuple):
    """What rounding explains."""

    nats: float
    gradient: float
    """Of its norm."""


def require_agreement(model: Any, sampler: Sampler, examples: list[Example]) -> Reading:
    """The fastest reading in which sampler and trainer compute what the model computes of each text alone.

    What is compared are log-probs of the whole vocabulary, so that a model that is sure of its tokens hides nothing, and the
    size of every parameter's gradient. Raises UserError naming the model's class if there is no such reading, if a token's
    logits depend on later tokens, if the logits are not the LM head's product with the scale or cap of the config, or if the
    gradient is not finite.
    """
    try:
        return _found(model, sampler, examples)
    except (UserError, TrainingFailure):
        raise
    except Exception as error:  # whatever a model that was never tried here may raise: it ends in one sentence
        said = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"--model: {type(model).__name__} cannot be sampled from and scored: {type(error).__name__}: {said}"
        ) from error


def _found(model: Any, sampler: Sampler, examples: list[Example]) -> Reading:
    head = head_of(model)
    with torch.no_grad():
        low = require_head(model, head, torch.tensor([sampler.prompter.encode(examples[0])], device=sampler.device))
        allowed = Precision(0.5, 0.5) if low else Precision(2e-3, 0.01)
        texts = _drawn(model, sampler, examples, allowed)
        alone = _alone(model, texts)
    norms = _gradient_norms(model, lambda: _alone(model, texts), texts)
    if not bool(torch.isfinite(norms).all()):
        raise UserError(f"--model: the gradient of {type(model).__name__} is not finite, with the weights as they were loaded")
    known = Known(head, alone / sampler.temperature, norms, sampler.temperature, allowed)
    failures, reasons = [], []
    for reading in READINGS:
        try:
            reason = _disagreement(model, reading, texts, known)
        except Exception as error:  # of a cache or a mask that the model does not know
            failures.append(error)
            continue
        if reason is None:
            return reading
        reasons.append(reason)
    if not reasons:
        raise failures[-1]
    name = type(model).__name__
    raise UserError(f"--model: of {name} {reasons[-1]}: its cache, its padding or its positions are not as assumed")


def _disagreement(model: Any, reading: Reading, texts: Texts, known: Known) -> str | None:
    """The first of a reading's results that is not that of the texts alone."""
    allowed = known.allowed

    def scored() -> Tensor:
        return logits_of(known.head, reading.states(model, *texts))

    with torch.no_grad():
        sampled = _forced(reading.growing(model, texts.prompt_ids[::2], texts.prompt_mask[::2]), texts)
        for name, logits in (("the sampler's log-probs", sampled), ("a training pass's log-probs", scored())):
            gap = _gap(logits / known.temperature, known.logits, texts.mask)
            if not gap <= allowed.nats:
                return f"{name} differ from those of each text alone by up to {gap:.2g} nats ({allowed.nats:g} allowed)"
    error = float((_gradient_norms(model, scored, texts) - known.norms).norm() / known.norms.norm())
    if not error <= allowed.gradient:
        return f"a training pass's gradient differs from that of each text alone by {error:.2g} ({allowed.gradient:g} allowed)"
    return None


def _drawn(model: Any, sampler: Sampler, examples: list[Example], allowed: Precision) -> Texts:
    """Texts that the model draws at temperature 1, each alone; UserError if it is not causal."""
    lengths = {len(row): row for row in (sampler.prompter.encode(example) for example in examples)}
    rows = [row for _, row in sorted(lengths.items())]
    ids, there = (torch.from_numpy(x).to(sampler.device) for x in left_pad(rows, sampler.prompter.tokenizer.pad_token_id))
    growing, generator, everyone = Unpadded(model, ids, there), sampler.chooser(0), torch.arange(2 * len(rows))
    logits, tokens = [growing.begin(2)], list[Tensor]()
    for column in range(min(TOKENS, sampler.max_new_tokens)):
        logits += [growing.step(everyone, tokens[-1])] if column else []
        tokens.append(torch.multinomial(torch.softmax(logits[-1].float(), -1), 1, generator=generator)[:, 0])
    drawn = torch.stack(tokens, 1)
    mask = torch.ones_like(drawn, dtype=torch.bool)
    texts = Texts(ids.repeat_interleave(2, 0), there.repeat_interleave(2, 0), drawn, mask)
    gap = _gap(torch.stack(logits, 1), _alone(model, texts), mask)
    if not gap <= allowed.nats:
        raise UserError(
            f"--model: of {type(model).__name__} the logits of a token change by {gap:.2g} nats with the tokens after it: it "
            "does not read from left to right (is_decoder: false in its config?), or takes a padding token in a text for the "
            "text's end, so no responses can be drawn from it"
        )
    mask[1::2, (drawn.shape[1] + 1) // 2 :] = False
    return texts


def _alone(model: Any, texts: Texts) -> Tensor:
    """[N, T, V] the model's own logits of each text alone: no padding, no positions, no cache."""
    rows = []
    for ids, there, tokens in zip(texts.prompt_ids, texts.prompt_mask, texts.tokens, strict=True):
        prompt = ids[there > 0]
        logits = model(input_ids=torch.cat([prompt, tokens])[None], **without_cache(model)).logits
        rows.append(logits[0, len(prompt) - 1 : -1].float())
    return torch.stack(rows)


def _forced(growing: Growing, texts: Texts) -> Tensor:
    """[N, T, V] the sampler's logits at the tokens of the texts, with the rows taken out that end; 0 in masked slots."""
    first = growing.begin(2).float()
    found = first.new_zeros(*texts.tokens.shape, first.shape[-1])
    found[:, 0], rows = first, torch.arange(len(first), device=first.device)
    for column in range(1, texts.tokens.shape[1]):
        going = texts.mask[rows, column].nonzero()[:, 0]
        rows = rows[going]
        found[rows, column] = growing.step(going, texts.tokens[rows, column - 1]).float()
    return found


def _gap(found: Tensor, expected: Tensor, mask: Tensor) -> float:
    """Nats by which log-probs differ: the vocabulary's mean at the worst token. Logits [N, T, V]."""
    ours, theirs = (torch.log_softmax(x[mask], -1) for x in (found.float(), expected.float()))
    error = torch.where(ours == theirs, 0.0, (ours - theirs).abs())  # −∞ in both is no difference
    return float(error.mean(-1).max())


def _gradient_norms(model: Any, logits: Callable[[], Tensor], texts: Texts) -> Tensor:
    """[parameters] of the gradient of the responses' log-probs, summed."""
    logp = torch.log_softmax(logits(), -1).gather(-1, texts.tokens[..., None])[..., 0]
    found = torch.autograd.grad(logp[texts.mask].sum(), [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return torch.stack([torch.zeros((), device=logp.device) if g is None else g.float().norm() for g in found])
