"""The LM head of a transformers model, with the scale or cap that its config names, as arguments of the LM-head functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import parametrize

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


class ModelHead(NamedTuple):
    """What a model does to its last hidden states h: logits z = scale · (W h + b), or cap · tanh((W h + b) / cap).

    >>> head = ModelHead(torch.eye(2), None, scale=0.5)
    >>> head.options(0.7)["temperature"], head.transformed(torch.tensor([4.0])).tolist()
    (1.4, [2.0])
    """

    weight: Tensor
    """[V, H]"""
    bias: Tensor | None = None
    """[V]"""
    scale: float = 1.0
    soft_cap: float | None = None

    def options(self, temperature: float = 1.0) -> dict[str, Any]:
        """Keyword arguments of `token_logp` and `linear_policy_loss`; a scale divides the temperature."""
        return {"bias": self.bias, "temperature": temperature / self.scale, "soft_cap": self.soft_cap}

    def transformed(self, products: Tensor) -> Tensor:
        """The logits of W h + b."""
        return self.scale * products if self.soft_cap is None else self.soft_cap * torch.tanh(products / self.soft_cap)


def model_head(model: Any) -> ModelHead:
    """The LM head of a causal language model of transformers.

    Read from its output embeddings and its text config: `final_logit_softcapping` (Gemma 2, Gemma 3n), `logits_soft_cap`
    (RecurrentGemma) and `output_logit_soft_cap` (xLSTM) are caps, `logit_scale`,
    `output_multiplier`, `lm_head_multiplier` a factor (Cohere, Falcon-H1), `logits_scaling` a divisor (Granite, MiniCPM3), or
    in HyperCLOVA X a factor. A model that does anything else to its logits looks like one that does nothing: compare log-probs
    with those of the model's own logits once before you rely on it.

    Returns: `ModelHead`.

    Raises: ValueError naming the model's class if there is no head, both a scale and a cap, or more of the head to be trained
    than its weight and bias, such as an adapter of peft: it changes the logits, and would have no gradient.

    >>> from types import SimpleNamespace
    >>> text = SimpleNamespace(model_type="granite", logits_scaling=8.0)
    >>> config, layer = SimpleNamespace(get_text_config=lambda: text), torch.nn.Linear(2, 3, bias=False)
    >>> model_head(SimpleNamespace(config=config, get_output_embeddings=lambda: layer)).scale
    0.125
    """
    layer, text = model.get_output_embeddings(), model.config.get_text_config()
    if getattr(layer, "weight", None) is None:
        raise ValueError(f"model: expected one with an LM head, got {type(model).__name__}")
    _require_plain(layer, model)
    scale, caps = _scale(text), [getattr(text, name, None) for name in CAPS]
    cap = next((cap for cap in caps if cap is not None), None)
    if cap is not None and scale != 1.0:
        raise ValueError(f"model: expected logits with a scale or with a cap, got {type(model).__name__} with both")
    return ModelHead(layer.weight, getattr(layer, "bias", None), scale, cap)


def _require_plain(layer: Any, model: Any) -> None:
    """An adapter may change nothing when training begins, so that no comparison of logits would find it."""
    known = (layer.weight, getattr(layer, "bias", None))
    if parametrize.is_parametrized(layer):  # its weight is computed from others whenever it is read, with gradient
        return
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad and not any(parameter is own for own in known):
            raise ValueError(
                f"model: expected an LM head of which weight and bias alone are trained, got {type(model).__name__}, which "
                f"has {name} there, too; leave the head out of target_modules, or train it whole (modules_to_save)"
            )


def _scale(text: Any) -> float:
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(text, name, None) is not None:
            return float(getattr(text, name))
    scaling = getattr(text, "logits_scaling", None) or 1.0
    return float(scaling if getattr(text, "model_type", "") == "hyperclovax" else 1.0 / scaling)
