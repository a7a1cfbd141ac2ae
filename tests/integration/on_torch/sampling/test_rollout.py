"""Sampling and log-probs agree with the model's own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.runs.answers import assert_stops
from support.runs.torch_trainers import draw, make_trainer, response_logp

from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.tasks.task import Task


def naive_logp(trainer: Trainer, batch: Responses, row: int) -> torch.Tensor:
    """Log-probs of one response from the whole logits, its own tokens only: no padding, no cache, no token_logp."""
    prompt = batch.prompt_ids[row][batch.prompt_mask[row] > 0]
    tokens = batch.tokens[row][batch.mask[row]]
    logits = trainer.model(input_ids=torch.cat([prompt, tokens])[None]).logits[0].double() / trainer.sampler.temperature
    return torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(-1, tokens[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_unpadded_sequence(task: Task, tmp_path: Path, temperature: float) -> None:
    trainer = make_trainer(task, tmp_path, temperature=temperature)
    trainer.sampling.manual_seed(2)
    batch = draw(trainer)
    lengths = batch.mask.sum(-1)
    assert lengths.min() < lengths.max(), "all responses have one length: padding is not tested"
    assert (batch.prompt_mask == 0).any(), "no prompt is padded"
    logp = response_logp(trainer.model, batch, temperature)
    for row in range(len(batch.tokens)):
        # float32 forward passes of different shapes: sums of about a hundred terms of order one
        assert torch.allclose(logp[row][batch.mask[row]].double(), naive_logp(trainer, batch, row), atol=1e-5, rtol=0)
        assert (logp[row][~batch.mask[row]] == 0).all()


def test_a_response_ends_with_its_stop_token_and_holds_no_other(trainer: Trainer) -> None:
    batch = draw(trainer, 16)
    assert_stops(
        zip(batch.tokens, batch.mask, strict=True), set(trainer.sampler.stop_ids.tolist()), trainer.config.max_new_tokens
    )


def test_greedy_sampling_is_the_argmax_of_the_whole_sequence(trainer: Trainer) -> None:
    batch = trainer.sampler.draw(trainer.task.train[:4], 1, None)
    for row in range(4):
        prompt = batch.prompt_ids[row][batch.prompt_mask[row] > 0]
        tokens = batch.tokens[row][batch.mask[row]]
        logits = trainer.model(input_ids=torch.cat([prompt, tokens])[None]).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(-1).tolist() == tokens.tolist()


def test_sampled_tokens_follow_the_models_distribution(trainer: Trainer) -> None:
    example, count = trainer.task.train[0], 4000
    batch = trainer.sampler.draw([example], count, trainer.sampling)
    logits = trainer.model(input_ids=torch.tensor([trainer.sampler.prompter.encode(example)])).logits[0, -1]
    expected = torch.softmax(logits.double(), -1)
    seen = torch.bincount(batch.tokens[:, 0], minlength=len(expected)).double() / count
    # five standard errors of the most uncertain frequency
    assert (seen - expected).abs().max() < 5 * (0.25 / count) ** 0.5
    assert seen.max() < 0.9, "the distribution is a point: nothing is tested"
