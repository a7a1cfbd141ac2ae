"""A model whose log-probs the fused head cannot compute is refused before training, and other models are not."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers

from integration.on_torch.rollout import Sampler, require_plain_head
from integration.on_torch.small_model import build_tokenizer
from integration.on_torch.trainer import Trainer
from integration.options.errors import UserError
from integration.shared.prompts import Prompter
from integration.shared.tasks import Task


def test_a_model_that_transforms_its_logits_is_refused(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    require_plain_head(trainer.model, trainer.sampler, trainer.task.train[0])
    forward = trainer.model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = 0.5 * torch.tanh(out.logits)
        return out

    monkeypatch.setattr(trainer.model, "forward", capped)
    with pytest.raises(UserError, match="it transforms its logits"):
        require_plain_head(trainer.model, trainer.sampler, trainer.task.train[0])


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


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize(
    ("kind", "special", "refused"),
    [
        ("Llama", {}, None),
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": None}, None),
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0}, "it transforms its logits"),
        ("Granite", {"logits_scaling": 8.0}, "it transforms its logits"),
        ("Cohere", {"logit_scale": 0.5}, "it transforms its logits"),
        ("Jamba", {}, "has layers that are no attention"),
    ],
)
def test_models_of_another_head_or_without_attention_are_refused_however_sure_they_are(
    task: Task, kind: str, special: dict[str, Any], refused: str | None, certain: bool
) -> None:
    """A cap of 30 does nothing to the logits of a new model; caps and scales hardly change log-probs of certain tokens."""
    tokenizer = build_tokenizer(task.train)
    config = getattr(transformers, f"{kind}Config")(**SIZES, **special, vocab_size=len(tokenizer))
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    if certain:
        with torch.no_grad():
            model.get_output_embeddings().weight[20] *= 1000
    prompter = Prompter(tokenizer, "chat")
    sampler = Sampler(model, prompter, 4, 1.0, torch.device("cpu"), torch.tensor(prompter.stop_ids()))
    with nullcontext() if refused is None else pytest.raises(UserError, match=refused):
        require_plain_head(model, sampler, task.train[0])
