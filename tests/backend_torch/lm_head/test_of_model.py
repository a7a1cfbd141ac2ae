"""`model_head` takes heads of which weight and bias are all that is trained, and refuses any other."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gspo_torch import model_head, token_logp
from torch import nn
from torch.nn.utils import parametrizations


def model_with(layer: nn.Module) -> Any:
    """What `model_head` looks at."""
    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(model_type="qwen3")), get_output_embeddings=lambda: layer
    )


class LowRank(nn.Module):
    """A linear layer with an adapter whose second matrix is 0 at the start, as peft makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(4, 6).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 6, bias=False)
        nn.init.zeros_(self.up.weight)

    @property
    def weight(self) -> torch.Tensor:
        """Of the layer alone."""
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor:
        """Of the layer alone."""
        return self.base_layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output and the adapter's."""
        return self.base_layer(x) + self.up(self.down(x))  # type: ignore[no-any-return]  # torch does not say


class Saved(nn.Module):
    """A frozen layer and the copy that is trained in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.original_module, self.copy = nn.Linear(4, 6).requires_grad_(False), nn.Linear(4, 6)
        self.weight, self.bias = self.copy.weight, self.copy.bias


def old_weight_norm() -> nn.Module:
    """Its weight is computed by a hook of the layer's call, which nobody makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(4, 6))  # type: ignore[no-untyped-call]  # torch's


@pytest.mark.parametrize("make", [LowRank, old_weight_norm])
def test_what_would_be_trained_beside_the_weight_is_refused(make: Any) -> None:
    """Both give the log-probs of the logits at the start, so that no comparison would have found them."""
    layer = make()
    assert torch.allclose(layer(torch.ones(4)), nn.functional.linear(torch.ones(4), layer.weight, layer.bias))
    with pytest.raises(ValueError, match=r"^model: expected an LM head of which weight and bias alone are trained, got "):
        model_head(model_with(layer))
    layer.requires_grad_(False)
    assert model_head(model_with(layer)).weight is layer.weight, "a reference model is not trained"


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(4, 6),
        lambda: nn.Linear(4, 6, bias=False).requires_grad_(False),
        Saved,
        lambda: parametrizations.weight_norm(nn.Linear(4, 6)),
    ],
    ids=["a layer", "a frozen layer", "a trained copy", "a parametrized layer"],
)
def test_other_heads_have_the_gradients_of_their_logits(make: Any) -> None:
    layer, hidden, tokens = make(), torch.randn(5, 4), torch.arange(5)
    trained = [p for p in layer.parameters() if p.requires_grad]
    call = layer.copy if isinstance(layer, Saved) else layer
    head = model_head(model_with(layer))
    ours = token_logp(hidden, head.weight, tokens, **head.options())
    expected = torch.log_softmax(call(hidden), -1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(ours, expected)
    for mine, theirs in zip(
        torch.autograd.grad(ours.sum(), trained) if trained else (),
        torch.autograd.grad(expected.sum(), trained) if trained else (),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
