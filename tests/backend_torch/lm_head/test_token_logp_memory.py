"""token_logp never holds tokens × vocabulary: its largest tensor does not grow with the number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gspo_torch
import pytest
import torch
from support.lm_head.heads import head, naive_logp
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VOCABULARY, WIDTH = 512, 4
CHUNK_TOKENS = 16


class LargestTensor(TorchDispatchMode):
    """Notes the largest storage that any operation gives back, forward or backward, in elements of its dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


def largest(path: Callable[..., Tensor], num_tokens: int) -> int:
    """Largest tensor of a forward and backward over `num_tokens` tokens."""
    x = head(shape=(num_tokens,), width=WIDTH, vocabulary=VOCABULARY, bias=False).to(torch.float32)
    with LargestTensor() as seen:
        path(x.hidden, x.lm_head, x.tokens).sum().backward()
    return seen.elements


def naive(hidden: Tensor, lm_head: Tensor, tokens: Tensor) -> Tensor:
    """The obvious code."""
    return naive_logp(head(bias=False)._replace(hidden=hidden, lm_head=lm_head, tokens=tokens))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.TILE", (CHUNK_TOKENS, VOCABULARY))


@pytest.mark.slow
def test_the_largest_tensor_is_one_chunk_of_logits_whatever_the_length() -> None:
    """Until the hidden states themselves are larger: 4096 tokens × 4 is still two chunks below."""
    assert [largest(gspo_torch.token_logp, n) for n in (64, 256, 1024)] == [CHUNK_TOKENS * VOCABULARY] * 3
    assert largest(gspo_torch.token_logp, 4096) == max(CHUNK_TOKENS * VOCABULARY, 4096 * WIDTH)


def test_the_naive_path_holds_all_logits() -> None:
    """The guard: the same measurement sees them."""
    assert [largest(naive, n) for n in (64, 256)] == [64 * VOCABULARY, 256 * VOCABULARY]


def test_what_is_saved_for_backward_is_linear_in_tokens() -> None:
    saved: list[int] = []
    x = head(shape=(1024,), width=WIDTH, vocabulary=VOCABULARY, bias=False).to(torch.float32)

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens)
    assert saved
    assert max(saved) == max(x.hidden.numel(), x.lm_head.numel())
