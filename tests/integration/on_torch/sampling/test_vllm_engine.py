"""vLLM draws from the policy as it is now, at the run's temperature, and its log-probs reach metrics and weights.

With an engine that has vLLM's signatures: vLLM itself needs a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import fake_vllm
from support.runs.torch_trainers import make_trainer, response_logp

from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.sampling.vllm_engine import VLLMEngine
from integration.on_torch.training import one_rollout
from integration.options.errors import TrainingFailure
from integration.tasks.task import Task

TEMPERATURE = 0.6


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        fake_vllm.install(patched)
        yield


def trainer_of(task: Task, folder: Path, **options: Any) -> Any:
    return make_trainer(task, folder, **{"sampler": "vllm", "temperature": TEMPERATURE, **options})


def engine_of(trainer: Any, *, sleeps: bool = False) -> VLLMEngine:
    return VLLMEngine(
        trainer.sampler, trainer.model.save_pretrained, dtype="float32", memory=0.4, longest_prompt=64, sleeps=sleeps
    )


def drawn(engine: VLLMEngine, trainer: Any, seed: int = 0, count: int = 2) -> Responses:
    examples = [trainer.task.train[i] for i in (0, 1, 1)]  # one twice
    return engine.draw(examples, count, torch.Generator().manual_seed(seed))


def gap(trainer: Any, responses: Responses) -> float:
    """Largest difference to the trainer's log-probs at the run's temperature, nats."""
    assert responses.logp is not None
    own = response_logp(trainer.model, responses, TEMPERATURE)
    return float((own - responses.logp)[responses.mask].abs().max())


@pytest.mark.parametrize("sleeps", [False, True])
def test_it_draws_from_the_weights_of_the_moment_at_the_temperature(task: Task, tmp_path: Path, sleeps: bool) -> None:
    trainer = trainer_of(task, tmp_path)
    engine = engine_of(trainer, sleeps=sleeps)
    with torch.no_grad():
        before = drawn(engine, trainer)
        assert gap(trainer, before) < 1e-5
        for parameter in trainer.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        assert gap(trainer, before) > 0.01, "the step is large enough to be seen"
        assert gap(trainer, drawn(engine, trainer)) < 1e-5


def test_responses_are_whole_groups_in_the_order_of_their_prompts(task: Task, tmp_path: Path) -> None:
    trainer = trainer_of(task, tmp_path)
    responses = drawn(engine_of(trainer), trainer)
    stops = trainer.sampler.stop_ids
    assert len(responses.tokens) == 6
    for row in range(6):
        ids = responses.prompt_ids[row][responses.prompt_mask[row] > 0].tolist()
        assert ids == trainer.sampler.prompter.encode(trainer.task.train[(0, 1, 1)[row // 2]])
        length = int(responses.mask[row].sum())
        own = responses.tokens[row, :length]
        assert responses.mask[row, :length].all()
        assert not torch.isin(own[:-1], stops).any()
        assert length == trainer.config.max_new_tokens or bool(torch.isin(own[-1], stops))
    assert (responses.logp[~responses.mask] == 0).all()
    lengths = responses.mask.sum(1)
    assert lengths.min() < lengths.max(), "some end early"


def test_only_the_runs_own_ids_end_a_response(task: Task, tmp_path: Path) -> None:
    """vLLM also ends one at the `eos_token_id` of the model's config, unless it is told not to."""
    trainer = trainer_of(task, tmp_path)
    before = drawn(engine_of(trainer), trainer)
    trainer.model.config.eos_token_id = int(before.tokens[before.mask.sum(1).argmax(), 0])
    assert torch.equal(drawn(engine_of(trainer), trainer).tokens, before.tokens)


def test_all_randomness_is_the_generators_and_every_prompt_has_its_own(task: Task, tmp_path: Path) -> None:
    trainer = trainer_of(task, tmp_path)
    engine = engine_of(trainer)
    one, again, other = (drawn(engine, trainer, seed).tokens for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert not torch.equal(one[2:4], one[4:]), "the same question twice has other responses"


@pytest.mark.parametrize(("dtype", "least", "most"), [(None, 0.0, 1e-5), ("bfloat16", 1e-4, 0.5)])
def test_its_log_probs_reach_metrics_and_weights(task: Task, tmp_path: Path, dtype: Any, least: float, most: float) -> None:
    trainer = trainer_of(task, tmp_path, sampler_dtype=dtype, sampler_correction="mis")
    assert isinstance(trainer.engine, VLLMEngine)
    row = one_rollout(trainer)
    assert least <= abs(row["sampler_raw_mean"] - 1) <= most
    assert least <= row["sampler_weight_max"] - 1 <= most
    assert "mismatch_noise_floor" in row
    assert "sampler_gap" not in row, "that check is for samplers that should agree"


class Broken(fake_vllm.LLM):
    """Whose responses have been changed."""

    def change(self, answer: fake_vllm.CompletionOutput) -> fake_vllm.CompletionOutput | None:
        """The response as it is given, or None for none."""
        raise NotImplementedError

    def generate(self, *args: Any, **kwargs: Any) -> list[fake_vllm.RequestOutput]:
        found = super().generate(*args, **kwargs)
        for request in found:
            request.outputs = [changed for answer in request.outputs if (changed := self.change(answer)) is not None]
        return found


def silent(answer: Any) -> Any:
    answer.logprobs = None
    return answer


def cut(answer: Any) -> Any:
    answer.token_ids, answer.logprobs, answer.finish_reason = answer.token_ids[:-1], answer.logprobs[:-1], "abort"
    return answer


def behind(answer: Any) -> Any:
    answer.token_ids, answer.logprobs = [*answer.token_ids, *answer.token_ids], answer.logprobs * 2
    return answer


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (silent, "^vLLM gave a response of . tokens, ended by '(stop|length)', .* without log-probs"),
        (cut, "^vLLM gave a response of . tokens, ended by 'abort', without an ending token"),
        (behind, "^vLLM gave a response of .* with tokens behind it"),
        (lambda answer: answer if answer.index else None, "^vLLM gave 3 responses, not 2 to each of 3 prompts"),
    ],
)
def test_what_is_no_response_of_this_run_stops_it(task: Task, tmp_path: Path, change: Any, says: str) -> None:
    trainer = trainer_of(task, tmp_path)
    engine = engine_of(trainer)
    engine._llm.__class__ = type("Changed", (Broken,), {"change": staticmethod(change)})
    with pytest.raises(TrainingFailure, match=says):
        drawn(engine, trainer)


def test_the_weights_that_were_written_are_gone_with_the_engine(task: Task, tmp_path: Path) -> None:
    trainer = trainer_of(task, tmp_path)
    engine = engine_of(trainer)
    folder = engine._folder
    assert list(folder.glob("*.safetensors"))
    del engine
    gc.collect()
    assert not folder.exists()
