"""GSPOLoss around torchrl's own wrapper of a transformers model, with responses of other lengths in a lazy stack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gspo_torch.trainers.torchrl import GSPOLoss
from tensordict import TensorDict, lazy_stack
from tokenizers import Tokenizer, models
from torchrl.modules.llm import TransformersWrapper
from torchrl.objectives.llm import GRPOLoss
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from gspo_core.objectives import DAPO

PROMPT, RESPONSES, VOCABULARY = 3, (4, 2, 5, 1), 32


@pytest.fixture(scope="module")
def wrapper() -> Any:
    """A Qwen2 of one layer."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape = Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=2)
    words = Tokenizer(models.WordLevel({str(k): k for k in range(VOCABULARY)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="1", eos_token="1")
    options = {"input_mode": "tokens", "generate": False, "pad_output": False, "return_log_probs": True}
    return TransformersWrapper(Qwen2ForCausalLM(shape).eval(), tokenizer=tokenizer, **options)


def rows(width: int | None = None) -> Any:
    """As torchrl's replay buffers give them; advantages as long as their row, or all of one width."""
    random, made = torch.Generator().manual_seed(1), []
    for length in RESPONSES:
        size = PROMPT + length
        full, old = torch.randint(2, VOCABULARY, (size,), generator=random), -3 + 0.3 * torch.randn(size, generator=random)
        advantage = torch.randn(1, 1, generator=random).repeat(width or size, 1)
        masks = {"all_attention_mask": torch.ones(size, dtype=torch.bool), "all_assistant_mask": torch.arange(size) >= PROMPT}
        fields = {"tokens": {"full": full, "prompt": full[:PROMPT]}, "masks": masks, "log_probs": {"full": old}}
        made.append(TensorDict(fields | {"advantage": advantage}, []))
    return lazy_stack(made)


def step(loss: Any, batch: Any) -> tuple[float, float, torch.Tensor]:
    """Objective, entropy term, and the gradient of the head."""
    found = loss(batch)
    total = found.loss_objective.sum() + found.loss_entropy.sum()
    (gradient,) = torch.autograd.grad(total, loss.actor_network.model.lm_head.weight)
    return float(found.loss_objective.detach()), float(found.loss_entropy.detach()), gradient


@pytest.mark.parametrize("strategy", ["sft", "rlhf", "generic"])
def test_it_is_torchrl_s_loss(wrapper: Any, strategy: str) -> None:
    """Where its advantages are of one width. It pads others on the right, and their log-probs on the left."""
    width, options = PROMPT + max(RESPONSES), {"masking_strategy": strategy, "entropy_coeff": 0.3}
    own = GRPOLoss(wrapper, **options)
    ours = GSPOLoss(wrapper, objective=DAPO.with_clip(0.2, 0.2), **options)
    expected, shifted = step(own, rows(width)), step(own, rows())
    for found in (step(ours, rows(width)), step(ours, rows())):
        assert found[:2] == pytest.approx(expected[:2], rel=1e-5)
        assert torch.allclose(found[2], expected[2], atol=1e-6)
    assert abs(shifted[0] - expected[0]) > 1e-3
