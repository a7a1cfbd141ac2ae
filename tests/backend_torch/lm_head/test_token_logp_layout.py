"""token_logp and token_scores with a layout: a token array with 0 in masked slots, as if gathered and scattered by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gspo_torch
import pytest
import torch
from gspo_torch.lm_head import logp as module
from hypothesis import given
from hypothesis import strategies as st
from support.lm_head.heads import Head, head, truth
from torch import Tensor

from gspo_core import Packed, Padded, Turns, sharded
from gspo_core.layouts import Layout, Restricted

POISON = [torch.nan, torch.inf, 1e30]
MASK = torch.tensor([[False, True, True, False, True], [False, False, False, False, False], [True, True, False, False, False]])


def scores(x: Head, layout: Layout | None) -> tuple[Tensor, Tensor]:
    """(log-probs, differentiable entropies)."""
    found = gspo_torch.token_scores(x.hidden, x.lm_head, x.tokens, bias=x.bias, entropy_gradient=True, layout=layout)
    return found.logp, found.entropy


def logp_alone(x: Head, layout: Layout | None) -> tuple[Tensor, ...]:
    """(log-probs,)"""
    return (gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias, layout=layout),)


FUNCTIONS = pytest.mark.parametrize("function", [logp_alone, scores], ids=["token_logp", "token_scores"])


def gathered(x: Head, mask: Tensor, function: Callable[..., Any]) -> list[Tensor]:
    """The same by hand: the valid tokens alone, then scattered to their slots."""
    found = function(x._replace(hidden=x.hidden[mask], tokens=x.tokens[mask]), None)
    return [torch.zeros(mask.shape, dtype=f.dtype).masked_scatter(mask, f) for f in found]


def poisoned(x: Head, mask: Tensor, poison: float = torch.nan, token: int = -100) -> Head:
    """Rubbish in the masked slots of hidden states and tokens."""
    hidden = torch.where(mask[..., None], x.hidden.detach(), poison).requires_grad_()
    return x._replace(hidden=hidden, tokens=torch.where(mask, x.tokens, token))


def gradients(found: tuple[Tensor, ...], x: Head, mask: Tensor) -> list[Tensor]:
    """Of a weighted sum; the weights of masked slots are NaN, and are not used."""
    generator = torch.Generator().manual_seed(5)
    weights = [torch.where(mask, torch.randn(mask.shape, generator=generator).to(f.dtype), torch.nan) for f in found]
    return list(torch.autograd.grad(found, x.leaves(), weights))


def layouts(mask: Tensor) -> dict[str, Layout]:
    """Every layout of the mask's slots: two-dimensional ones, and flat ones."""
    rows = torch.arange(len(mask))[:, None]
    ids = torch.where(mask, rows, -1).reshape(-1)
    return {
        "padded": Padded(mask),
        "turns": Turns(Padded(mask), torch.where(mask, 0, -1), 1),
        "restricted": Restricted(Padded(torch.ones_like(mask)), mask),
        "shard": sharded(Padded(mask), lambda n: 2 * n),
        "packed": Packed(ids, len(mask)),
        "interleaved": Packed(ids.flip(0), len(mask)),
    }


@FUNCTIONS
@pytest.mark.parametrize("name", sorted(layouts(MASK)))
def test_values_and_gradients_are_those_of_gathering_and_scattering_by_hand(name: str, function: Callable[..., Any]) -> None:
    """Bit for bit, with rubbish in masked slots; the gradient is exactly 0 there."""
    layout, x = layouts(MASK)[name], head(shape=(3, 5)).to(torch.float32)
    if len(layout.shape) == 1:
        x = x._replace(hidden=x.hidden.detach().reshape(15, -1).requires_grad_(), tokens=x.tokens.reshape(15))
    dirty, mask = poisoned(x, layout.valid), layout.valid
    mine, expected = function(dirty, layout), gathered(x, mask, function)
    assert all(torch.equal(a, b) for a, b in zip(mine, expected, strict=True))
    assert all(f.shape == layout.shape and (f[mask] != 0).all() and (f[~mask] == 0).all() for f in mine)
    found, wanted = gradients(mine, dirty, mask), gradients(tuple(expected), x, mask)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not found[0][~mask].any()
    assert found[0][mask].any(-1).all()


@given(
    mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), max_size=5),
    poison=st.sampled_from(POISON),
    token=st.sampled_from([-100, -1, 50, 10**6]),
)
def test_any_mask_against_the_float64_truth(mask: list[list[bool]], poison: float, token: int) -> None:
    """Log_softmax of all logits in clean slots. 16 products of order 12 and a softmax of 50: 1e-13 in float64."""
    valid = torch.tensor(mask, dtype=torch.bool).reshape(len(mask), 4)
    clean = head(shape=tuple(valid.shape))
    x = poisoned(clean, valid, poison, token)
    (mine,) = logp_alone(x, Padded(valid))
    weights = torch.randn(valid.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logp, wanted = truth(clean, torch.where(valid, weights, 0.0))
    found = torch.autograd.grad(mine, x.leaves(), weights)
    for actual, expected in [(mine.detach(), torch.where(valid, logp, 0.0)), *zip(found, wanted, strict=True)]:
        assert actual.shape == expected.shape
        assert not actual.numel() or (actual - expected).abs().max() <= 1e-13 * max(1.0, expected.abs().max().item())
    assert not mine[~valid].any()
    assert not found[0][~valid].any()


@FUNCTIONS
def test_only_valid_tokens_meet_the_head(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """In forward and in backward."""
    seen: list[int] = []
    for name in ("forward", "backward"):
        inner = getattr(module, name)

        def counted(of: Any, rows: Tensor, *rest: Any, inner: Any = inner, **more: Any) -> Any:
            seen.append(len(rows))
            return inner(of, rows, *rest, **more)

        monkeypatch.setattr(module, name, counted)
    x = head(shape=(3, 5))
    sum(f.sum() for f in function(x, Padded(MASK))).backward()
    assert seen == [5, 5]
    seen.clear()
    sum(f.sum() for f in function(x, None)).backward()
    assert seen == [15, 15]


def test_a_layout_without_a_masked_slot_changes_no_bit() -> None:
    x = head(shape=(3, 5)).to(torch.float32)
    everywhere, plain = logp_alone(x, Padded(torch.ones_like(MASK)))[0], logp_alone(x, None)[0]
    assert torch.equal(everywhere, plain)


def test_an_entropy_without_a_gradient_has_none_with_a_layout_either() -> None:
    x = head(shape=(3, 5))
    found = gspo_torch.token_scores(x.hidden, x.lm_head, x.tokens, layout=Padded(MASK))
    assert found.logp.requires_grad
    assert not found.entropy.requires_grad


def test_a_second_derivative_is_refused_with_a_layout_too() -> None:
    x = head(shape=(3, 5))
    (gradient,) = torch.autograd.grad(logp_alone(x, Padded(MASK))[0].sum(), x.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    ("kind", "sentence", "layout"),
    [
        (TypeError, r"^layout: expected a layout such as Padded\(mask\), got Tensor", MASK),
        (TypeError, r"^layout: expected a layout of torch tensors, got one of numpy.ndarray", Padded(MASK.numpy())),
        (ValueError, r"^tokens: expected the layout's shape \[3, 4\], got \[3, 5\]", Padded(MASK[:, 1:])),
        (ValueError, r"^tokens: expected the layout's shape \[15\], got \[3, 5\]", layouts(MASK)["packed"]),
        (ValueError, r"^layout: expected the device of hidden, cpu, got meta", Padded(MASK.to("meta"))),
    ],
)
def test_a_wrong_layout_is_refused(kind: type[Exception], sentence: str, layout: Any) -> None:
    with pytest.raises(kind, match=sentence):
        logp_alone(head(shape=(3, 5)), layout)


def test_a_wrong_id_in_a_valid_slot_is_refused() -> None:
    x = head(shape=(3, 5))
    with pytest.raises(ValueError, match=r"^tokens: expected ids in \[0, 50\), .* got ids from 50 to 50"):
        logp_alone(x._replace(tokens=torch.full_like(x.tokens, 50)), Padded(MASK))
