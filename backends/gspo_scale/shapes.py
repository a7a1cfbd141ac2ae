"""The sizes of a decoder that memory and traffic follow from: plain numbers, a preset's or read off a transformers config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gspo_core.backend import as_whole


@dataclass(frozen=True)
class Shape:
    """A decoder like Llama, Qwen3 or Qwen3-MoE: layers of attention and a gated MLP or experts, between embedding and LM head.

    Raises ValueError for a size that is no whole number, or below its least value, by its name.

    >>> PRESETS["qwen3-0.6b"].parameters
    596049920
    """

    layers: int
    hidden: int
    """H, the width of the residual stream."""
    heads: int
    kv_heads: int
    """Heads of keys and values."""
    head_size: int
    intermediate: int
    """Of the MLP; of one expert in a mixture."""
    vocabulary: int
    """V."""
    tied: bool = True
    """The LM head is the embedding."""
    experts: int = 0
    """In a layer; 0: a dense model."""
    active: int = 0
    """Experts that each token goes to."""
    extra: int = 0
    """Parameters that the other sizes do not account for, such as biases and norms of queries and keys."""

    def __post_init__(self) -> None:
        least = {"experts": 0, "active": 0}
        for name in ("layers", "hidden", "heads", "kv_heads", "head_size", "intermediate", "vocabulary", *least):
            object.__setattr__(self, name, as_whole(name, getattr(self, name), least.get(name, 1)))

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_size

    @property
    def keys(self) -> int:
        """Width of all keys together, and of all values."""
        return self.kv_heads * self.head_size

    @property
    def layer(self) -> int:
        """Parameters of one layer: attention, MLP or experts with their router, and two norms."""
        attention = 2 * self.hidden * (self.queries + self.keys)
        mlp = 3 * self.hidden * self.intermediate * max(1, self.experts) + self.hidden * self.experts
        return attention + mlp + 2 * self.hidden

    @property
    def head(self) -> int:
        """Parameters of the LM head."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.layers * self.layer + (1 if self.tied else 2) * self.head + self.hidden + self.extra


def _qwen3(layers: int, hidden: int, heads: int, kv_heads: int, intermediate: int, **more: Any) -> Shape:
    """Heads of 128, with a norm of queries and one of keys in every layer."""
    return Shape(layers, hidden, heads, kv_heads, 128, intermediate, 151936, extra=layers * 256, **more)


PRESETS = {
    "smollm2-135m": Shape(30, 576, 9, 3, 64, 1536, 49152),
    "qwen3-0.6b": _qwen3(28, 1024, 16, 8, 3072),
    "qwen3-1.7b": _qwen3(28, 2048, 16, 8, 6144),
    "qwen3-4b": _qwen3(36, 2560, 32, 8, 9728),
    "qwen3-8b": _qwen3(36, 4096, 32, 8, 12288, tied=False),
    "qwen3-32b": _qwen3(64, 5120, 64, 8, 25600, tied=False),
    "qwen3-30b-a3b": _qwen3(48, 2048, 32, 4, 768, tied=False, experts=128, active=8),
}
"""Sizes from the models' configs on the hub.

>>> round(PRESETS["qwen3-30b-a3b"].parameters / 1e9, 1)
30.5
"""


def shape_of(config: Any, parameters: int | None = None) -> Shape:
    """The sizes in a config of transformers, or any object with its names.

    Args:
        config: of a causal language model; of one with several parts, that of its text decoder.
        parameters: how many the model has, if that was counted; None: by the formula of `Shape`.

    Returns: `Shape`. A model without a gated MLP counts as if it had one, so that memory is over- and not underestimated.

    Raises: AttributeError for a config without layers, heads, hidden size or vocabulary; else as `Shape`.

    >>> from types import SimpleNamespace
    >>> small = SimpleNamespace(num_hidden_layers=4, hidden_size=128, num_attention_heads=4, vocab_size=99, intermediate_size=9)
    >>> shape_of(small).parameters, shape_of(small, 10**6).parameters
    (302464, 1000000)
    """

    def read(name: str) -> Any:
        return getattr(config, name, None)

    hidden, heads = config.hidden_size, config.num_attention_heads
    active = read("num_experts_per_tok") or 0
    experts = (read("num_experts") or read("num_local_experts") or active) if active else 0
    inner = read("intermediate_size") or 4 * hidden
    shape = Shape(
        layers=config.num_hidden_layers,
        hidden=hidden,
        heads=heads,
        kv_heads=read("num_key_value_heads") or heads,
        head_size=read("head_dim") or hidden // heads,
        intermediate=(read("moe_intermediate_size") or inner) if active else inner,
        vocabulary=config.vocab_size,
        tied=bool(read("tie_word_embeddings")),
        experts=experts,
        active=active,
    )
    if parameters is None:
        return shape
    return Shape(**{**vars(shape), "extra": parameters - shape.parameters})
