"""Heads with a scale or a cap, mixtures, and what is refused."""

import copy
import types
from typing import Any

import numpy as np
import pytest
import torch
from gspo_torch import token_logp
from gspo_torch.trainers.trl.head import add_states
from peft import LoraConfig, get_peft_model
from support.trainers.trl_runs import STEPS, ours, parameters, theirs
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gspo_core.objectives import DAPO

SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def made(kind: str, **options: Any) -> Any:
    """A small random model, with weights large enough for its cap to act."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **options}), dtype=torch.float32)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen3", {}),
        ("gemma2", {"final_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}),
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("phi", {}),  # has a bias
        ("llama4_text", {"num_local_experts": 4, "intermediate_size_mlp": 48}),  # is its own base model
    ],
)
def test_log_probs_are_those_of_the_models_logits(kind: str, options: dict[str, Any]) -> None:
    model = made(kind, **options)
    ids = torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(1))
    expected = torch.log_softmax(model(input_ids=ids).logits[:, :-1].double() / 0.7, -1).gather(2, ids[:, 1:, None])[..., 0]
    add_states(model, 0.7)

    def scored(hidden: Tensor, lm_head: Tensor, options: dict[str, Any]) -> Tensor:
        return token_logp(hidden[:, :-1], lm_head, ids[:, 1:], **options)

    found = model(input_ids=ids, states=scored)["loss"]
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
    assert model(input_ids=ids).logits.shape == (3, 7, 64), "without states the model is what it was"


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "wrapped before"])
def test_a_deep_copy_is_a_model_of_its_own(wrapped: bool) -> None:
    """A snapshot to compare with later, or a moving average: it keeps its log-probs while the model is trained."""
    model, ids = made("qwen3"), torch.randint(3, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    if wrapped:  # as accelerate does, and as a second trainer of the same model does
        model.forward = types.MethodType(type(model).forward, model)
        add_states(model, 1.0)
    add_states(model, 1.0)

    def scored(hidden: Tensor, lm_head: Tensor, options: dict[str, Any]) -> Tensor:
        return token_logp(hidden[:, :-1], lm_head, ids[:, 1:], **options)

    def both(network: Any) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return network(input_ids=ids).logits, network(input_ids=ids, states=scored)["loss"]

    before, snapshot = both(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    for now, then, kept in zip(both(model), before, both(snapshot), strict=True):
        assert torch.equal(kept, then)
        assert not torch.equal(now, then), "the model has been trained"


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = made("qwen3")
    layer = model.lm_head.forward
    model.lm_head.forward = lambda x: layer(x).tanh()
    with pytest.raises(ValueError, match=r"^model: expected logits that are a linear layer .* got Qwen3ForCausalLM"):
        add_states(model, 1.0)


def test_an_adapter_on_the_head_is_refused_though_it_changes_nothing_at_the_start() -> None:
    adapted = get_peft_model(made("qwen3"), LoraConfig(r=2, target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ValueError, match=r"^model: expected an LM head of which weight and bias alone .* has lora_A"):
        add_states(adapted.get_base_model(), 1.0)
    whole = get_peft_model(made("qwen3"), LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    add_states(whole.get_base_model(), 1.0)


def test_the_balancing_loss_of_a_mixture_is_that_of_trl() -> None:
    mixture = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "mlp_only_layers": [],
    }
    both: dict[str, Any] = {
        "router_aux_loss_coef": 0.5,
        "generation": 1,
        "num_iterations": STEPS,
        "accumulation": 2,
        "lr": 1e-3,
    }
    mine = ours(DAPO.with_clip(0.2, 0.2), model=made("qwen3_moe", **mixture), **both)
    expected = parameters(theirs(model=made("qwen3_moe", **mixture), **both))
    without = parameters(
        ours(DAPO.with_clip(0.2, 0.2), model=made("qwen3_moe", **mixture), **{**both, "router_aux_loss_coef": 0.0})
    )
    for name, values in parameters(mine).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-6, rtol=1e-5, err_msg=name)
    assert any(np.abs(without[name] - expected[name]).max() > 1e-5 for name in expected)
    assert any("aux_loss" in row for row in mine.state.log_history)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 16, "mlp_only_layers": []}),
        ("mixtral", {"num_local_experts": 4}),
        ("granitemoe", {"num_local_experts": 4}),
        ("phimoe", {"num_local_experts": 4}),
        ("jetmoe", {"num_local_experts": 4, "kv_channels": 16}),
        ("ernie4_5_moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1}),
    ],
)
def test_the_balancing_loss_is_the_models_own_whatever_its_config_calls_experts(kind: str, options: dict[str, Any]) -> None:
    """TRL adds it by default where the config has a coefficient, as that of Granite has; padding does not count."""
    model = made(kind, num_experts_per_tok=2, **options)
    ids = torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(7) >= torch.tensor([[0], [2], [4]])).long()
    expected = model(input_ids=ids, attention_mask=mask, output_router_logits=True).aux_loss
    add_states(model, 1.0)
    found = model(input_ids=ids, attention_mask=mask, states=lambda hidden, *_: hidden.sum(), output_router_logits=True)
    torch.testing.assert_close(found["aux_loss"], expected)
    assert expected > 0


def test_in_bfloat16_log_probs_are_not_rounded() -> None:
    """TRL's default is bf16=True, and its own head rounds logits to bfloat16 then; ours is float32 on the same states."""
    trainer = ours(DAPO, bf16=True, lr=0.0)
    ids = torch.randint(3, 20, (2, 9), generator=torch.Generator().manual_seed(2))
    seen: list[Tensor] = []

    def scored(hidden: Tensor, lm_head: Tensor, options: dict[str, Any]) -> Tensor:
        logits = (hidden[:, :-1].double() @ lm_head.double().T).log_softmax(-1)
        seen.append(logits.gather(2, ids[:, 1:, None])[..., 0])
        return token_logp(hidden[:, :-1], lm_head, ids[:, 1:], **options)

    with torch.no_grad(), trainer.accelerator.autocast():
        found = trainer.model(input_ids=ids, attention_mask=torch.ones_like(ids), states=scored)["loss"]
        theirs = trainer.model(input_ids=ids).logits[:, :-1]
    assert torch.equal(theirs, theirs.bfloat16().float()), "autocast is on"  # accelerate widens what it rounded
    torch.testing.assert_close(found.double(), seen[0], atol=1e-5, rtol=0)
    rounded = theirs.double().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    assert (rounded - seen[0]).abs().max() > 1e-3, "logits that were rounded are off by more than a clip range"
