"""What TRL scores responses with, replaced: the model's decoder, and our LM head on its hidden states."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from gspo_torch import token_logp

States = Callable[[Tensor, "Head"], Any]
"""(last hidden states [N, L, H], head) ↦ a tensor that is to be differentiated."""


class Head(NamedTuple):
    """Arguments of `token_logp` and `linear_policy_loss`."""

    weight: Tensor
    bias: Tensor | None
    temperature: float
    soft_cap: float | None

    @property
    def options(self) -> dict[str, Any]:
        """All but the weight."""
        return {"bias": self.bias, "temperature": self.temperature, "soft_cap": self.soft_cap}


def add_states(model: Any, temperature: float) -> None:
    """Lets `model(..., states=f)` run the decoder alone and return {"loss": f(hidden states, head)}.

    It happens inside of `forward`, where DDP and FSDP gather parameters and average gradients. With output_router_logits=True
    the result has "aux_loss", the balancing loss of a mixture.

    Raises: ValueError naming the model's class if log-probs from the hidden states are not those from the model's logits.
    """
    original, text = model.forward, model.config.get_text_config()
    scale, cap = _scale(text), getattr(text, "final_logit_softcapping", None)
    if cap is not None and scale != 1.0:
        raise ValueError(f"model: expected logits with a scale or a soft cap, got both from {type(model).__name__}")

    @functools.wraps(type(model).forward)  # generate() looks at the signature
    def forward(self: Any, *args: Any, states: States | None = None, **kwargs: Any) -> Any:
        if states is None:
            return original(*args, **kwargs)
        out = self.base_model(*args, use_cache=False, **kwargs)
        layer = self.get_output_embeddings()
        head = Head(layer.weight, layer.bias, temperature / scale, cap)
        found = {"loss": states(out.last_hidden_state, head)}
        if kwargs.get("output_router_logits"):
            routers = (out.router_logits, text.num_experts, text.num_experts_per_tok, kwargs["attention_mask"])
            found["aux_loss"] = load_balancing_loss_func(*routers)
        return found

    model.forward = types.MethodType(forward, model)
    _check_same(model, temperature)


def _scale(text: Any) -> float:
    """What the model multiplies its logits by, from the names that configurations have for it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(text, name, None) is not None:
            return float(getattr(text, name))
    scaling = getattr(text, "logits_scaling", None) or 1.0
    return float(scaling if text.model_type == "hyperclovax" else 1.0 / scaling)


@torch.no_grad()
def _check_same(model: Any, temperature: float) -> None:
    """Log-probs of likely and of arbitrary tokens at a few positions, by our head and from the model's own logits."""
    training, vocabulary = model.training, model.config.get_text_config().vocab_size
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, 6), generator=random).to(model.device)
    model.eval()
    logits = model(input_ids=ids).logits[0].float() / temperature
    arbitrary = torch.randint(logits.shape[-1], (6, 4), generator=random).to(model.device)
    tokens = torch.cat([logits.topk(4).indices, arbitrary], 1)  # [6, 8]

    def scored(hidden: Tensor, head: Head) -> Tensor:
        return token_logp(hidden[0, :, None].expand(-1, 8, -1), head.weight, tokens, **head.options)

    ours = model(input_ids=ids, states=scored)["loss"]
    model.train(training)
    allowed = 1e-4 + 8 * torch.finfo(model.dtype).eps * float(logits.abs().max())
    error = float((torch.log_softmax(logits, -1).gather(1, tokens) - ours).abs().max())
    if not error <= allowed:
        raise ValueError(
            f"model: expected logits that are a linear layer of the last hidden states, got {type(model).__name__}, whose "
            f"log-probs differ from those by {error:.2g} nats ({allowed:.2g} allowed)"
        )
