"""What TRL scores responses with, replaced: the model's decoder, and our LM head on its hidden states."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from gspo_torch import model_head, token_logp

States = Callable[[Tensor, Tensor, dict[str, Any]], Any]
"""(last hidden states [N, L, H], LM head [V, H], its other options) ↦ a tensor that is to be differentiated."""


def add_states(model: Any, temperature: float) -> None:
    """Lets `model(..., states=f)` run the decoder alone and return {"loss": f(hidden states, LM head, options)}.

    It happens inside of `forward`, where DDP and FSDP gather parameters and average gradients. With output_router_logits=True
    the result has "aux_loss", the balancing loss of a mixture.

    Raises: ValueError naming the model's class if log-probs from the hidden states are not those from the model's logits.
    """
    original, text = _unbound(model), model.config.get_text_config()

    @functools.wraps(type(model).forward)  # generate() looks at the signature
    def forward(self: Any, *args: Any, states: States | None = None, **kwargs: Any) -> Any:
        if states is None:
            return original(self, *args, **kwargs)
        out = _decoder(self)(*args, use_cache=False, **kwargs)
        head = model_head(self)
        found = {"loss": states(out.last_hidden_state, head.weight, head.options(temperature))}
        if kwargs.get("output_router_logits"):
            routers = (out.router_logits, _experts(text), text.num_experts_per_tok, kwargs["attention_mask"])
            found["aux_loss"] = load_balancing_loss_func(*routers)
        return found

    model.forward = types.MethodType(forward, model)
    _check_same(model, temperature)


def _decoder(model: Any) -> Any:
    """What gives the last hidden states. Llama 4's base model is said to be the model itself, head included."""
    return model.model if model.base_model is model else model.base_model


def _experts(text: Any) -> int:
    """Of each layer of a mixture, whatever its config calls them."""
    count: int = text.num_experts if hasattr(text, "num_experts") else text.num_local_experts
    return count


def _unbound(model: Any) -> Callable[..., Any]:
    """The model's forward as a function of the model, too: a deep copy of the model has to run itself, not the original."""
    bound = model.forward
    return bound.__func__ if getattr(bound, "__self__", None) is model else lambda _, *args, **kwargs: bound(*args, **kwargs)


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

    def scored(hidden: Tensor, lm_head: Tensor, options: dict[str, Any]) -> Tensor:
        return token_logp(hidden[0, :, None].expand(-1, 8, -1), lm_head, tokens, **options)

    ours = model(input_ids=ids, states=scored)["loss"]
    model.train(training)
    allowed = 1e-4 + 8 * torch.finfo(model.dtype).eps * float(logits.abs().max())
    error = float((torch.log_softmax(logits, -1).gather(1, tokens) - ours).abs().max())
    if not error <= allowed:
        raise ValueError(
            f"model: expected logits that are a linear layer of the last hidden states, got {type(model).__name__}, whose "
            f"log-probs differ from those by {error:.2g} nats ({allowed:.2g} allowed)"
        )
