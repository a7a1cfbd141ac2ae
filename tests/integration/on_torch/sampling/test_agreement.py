"""A model trains with the log-probs of its own logits, whatever its head and its layers, or is refused before it trains."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers
from support.runs.torch_trainers import response_logp

from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.sampling.growing import Cached, Reread, Unpadded
from integration.on_torch.sampling.reading import READINGS, Reading
from integration.on_torch.sampling.rollout import Sampler, predicting_states
from integration.on_torch.small_model import build_tokenizer
from integration.on_torch.trainer import Trainer
from integration.options.errors import UserError
from integration.tasks.prompts import Prompter
from integration.tasks.task import Task

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 4,
    "bos_token_id": None,
    "tie_word_embeddings": False,
}
HYBRID = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "linear_num_value_heads": 4}
HYBRID |= {"linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 2}
HYBRID |= {"num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Phi": {},  # its head has a bias
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 5.0},
    "Granite": {"logits_scaling": 8.0},
    "Cohere": {"logit_scale": 0.5},
    "Jamba": {"mamba_d_state": 4, "mamba_dt_rank": 4, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1},
    "FalconMamba": {"state_size": 4},
    "Qwen3Next": HYBRID,
    "Bart": {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
    "Roberta": {"is_decoder": True},
    "Electra": {"is_decoder": True, "embedding_size": 32},  # a layer between its decoder and its head, as in Roberta
}
RECURRENT = {"Jamba", "FalconMamba", "Qwen3Next"}
UNPADDED = {"Bart", "Roberta"}  # count positions in their own way


def made(task: Task, kind: str, certain: bool = False) -> tuple[Any, Sampler]:
    """A small random model with logits that are large enough for a cap to act, and its sampler."""
    tokenizer = build_tokenizer(task.train)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **FAMILIES[kind], vocab_size=len(tokenizer))
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        ids = torch.arange(5, 25)[None]
        model.get_output_embeddings().weight *= 4 / model(input_ids=ids, use_cache=False).logits.std()
        if certain:
            model.get_output_embeddings().weight[20] *= 1000
    prompter = Prompter(tokenizer, "chat")
    return model, Sampler(model, prompter, 5, 0.7, torch.device("cpu"), torch.tensor(prompter.stop_ids()), keep_logp=True)


@pytest.mark.parametrize("kind", FAMILIES)
def test_log_probs_are_those_of_the_models_own_logits(task: Task, kind: str) -> None:
    """Each response alone, without padding, positions or a cache: in a training pass, and in the sampler."""
    model, sampler = made(task, kind)
    sampler = dataclasses.replace(sampler, reading=require_agreement(model, sampler, task.train[:8]))
    examples = sorted(task.train[:30], key=lambda e: len(e.question))[::10]
    assert len({len(e.question) for e in examples}) > 1
    drawn = sampler.draw(examples, 2, sampler.chooser(3))
    mine = response_logp(model, drawn, 0.7, sampler.reading)
    for row in range(len(drawn.tokens)):
        prompt, tokens = drawn.prompt_ids[row][drawn.prompt_mask[row] > 0], drawn.tokens[row][drawn.mask[row]]
        logits = model(input_ids=torch.cat([prompt, tokens])[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits.double() / 0.7, -1).gather(1, tokens[:, None])[:, 0]
        assert drawn.logp is not None
        for found in (mine[row], drawn.logp[row]):
            torch.testing.assert_close(found[drawn.mask[row]].double(), expected, atol=2e-4, rtol=0)
        assert expected.abs().max() > 0.1, "tokens that were not certain"


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_fastest_reading_is_taken_that_is_right(task: Task, kind: str) -> None:
    model, sampler = made(task, kind)
    expected = READINGS[1 if kind in RECURRENT else 2 if kind in UNPADDED else 0]
    assert require_agreement(model, sampler, task.train[:8]) == expected


def test_every_reading_draws_the_same_responses_with_the_same_hidden_states(task: Task) -> None:
    model, sampler = made(task, "Llama")
    sampler = dataclasses.replace(sampler, stop_ids=torch.arange(0, 50, 2))
    first, *others = [dataclasses.replace(sampler, reading=way).draw(task.train[:3], 3, sampler.chooser(5)) for way in READINGS]
    assert all(torch.equal(first.tokens, other.tokens) for other in others)
    assert not bool(first.mask.all()), "some responses end before others"
    assert len(set(first.prompt_mask.sum(-1).tolist())) > 1, "prompts of several lengths"
    states = [predicting_states(model, first, way)[first.mask] for way in READINGS]
    torch.testing.assert_close(states[0], states[2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize("change", [lambda z: 500 * torch.tanh(z / 500), lambda z: z / 8, lambda z: z.roll(1, -1)])
def test_a_head_that_its_config_does_not_name_is_refused_however_sure_the_model_is(
    task: Task, certain: bool, change: Any
) -> None:
    """Caps and scales hardly change the log-probs of certain tokens, and a large cap nothing at small logits."""
    model, sampler = made(task, "Llama", certain)
    require_agreement(model, sampler, task.train[:4])
    forward = model.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = change(out.logits)
        return out

    model.forward = changed
    with pytest.raises(UserError, match=r"^--model: the logits of LlamaForCausalLM differ from hidden states times LM head"):
        require_agreement(model, sampler, task.train[:4])


@pytest.mark.parametrize("broken", [1, 2, 3])
def test_a_way_of_sampling_that_draws_from_another_distribution_is_not_taken(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """As where a model's cache is not continued, or its positions are counted in another way."""
    for way in (Cached, Reread, Unpadded)[:broken]:
        step = way.step

        def shifted(self: Any, going: torch.Tensor, token: torch.Tensor, step: Any = step) -> torch.Tensor:
            logits: torch.Tensor = step(self, going, token)
            return logits.roll(1, -1)

        monkeypatch.setattr(way, "step", shifted)
    if broken == len(READINGS):
        with pytest.raises(UserError, match=r"^--model: of Qwen3ForCausalLM the logits of a token change by .* nats"):
            require_agreement(trainer.model, trainer.sampler, trainer.task.train[:4])
    else:
        assert require_agreement(trainer.model, trainer.sampler, trainer.task.train[:4]) == READINGS[broken]


@pytest.mark.parametrize("fault", ["states", "gradient"])
def test_a_training_pass_that_computes_something_else_is_refused(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    states = Reading.states

    def changed(self: Reading, *args: Any) -> torch.Tensor:
        found = states(self, *args)
        return found.roll(1, -1) if fault == "states" else 2 * found - found.detach()

    monkeypatch.setattr(Reading, "states", changed)
    with pytest.raises(UserError, match=r"^--model: of Qwen3ForCausalLM a training pass's (log-probs|gradient) differs? from"):
        require_agreement(trainer.model, trainer.sampler, trainer.task.train[:4])


def test_a_model_that_reads_later_tokens_is_refused(task: Task) -> None:
    _, sampler = made(task, "Llama")
    config = transformers.BertConfig(**SIZES, vocab_size=len(sampler.prompter.tokenizer), initializer_range=0.3)
    model = transformers.BertLMHeadModel(config).eval()
    with pytest.raises(UserError, match=r"^--model: of BertLMHeadModel the logits of a token change by .*is_decoder"):
        require_agreement(model, dataclasses.replace(sampler, model=model), task.train[:4])


def test_any_other_model_ends_in_one_sentence(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.model, "forward", lambda **_: None)
    with pytest.raises(UserError, match=r"^--model: Qwen3ForCausalLM cannot be sampled from and scored: ValueError: "):
        require_agreement(trainer.model, trainer.sampler, trainer.task.train[:4])
