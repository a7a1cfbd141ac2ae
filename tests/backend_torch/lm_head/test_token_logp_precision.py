"""With low-precision parameters token_logp is no worse than the obvious code, and far better where GSPO needs it."""

from __future__ import annotations

import gspo_torch
import pytest
import torch
from support.lm_head.heads import Head, head, naive_logp, truth
from torch import Tensor

LOW = [torch.bfloat16, torch.float16]


def upstream_for(x: Head) -> Tensor:
    """Weights of a policy loss."""
    return torch.randn(x.tokens.shape, generator=torch.Generator().manual_seed(9)) / x.tokens.numel()


def run(x: Head, upstream: Tensor, naive: bool) -> tuple[Tensor, list[Tensor]]:
    """(log-probs, gradients) of the naive path or of ours, everything in the inputs' dtype."""
    logp = naive_logp(x) if naive else gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias)
    return logp.detach(), list(torch.autograd.grad(logp, x.leaves(), upstream.to(logp.dtype)))


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest absolute error."""
    return (actual.double() - expected).abs().max().item()


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_no_worse_than_the_naive_path(dtype: torch.dtype, seed: int) -> None:
    """|ours − truth| ≤ |naive − truth| + floor. The floor is half a unit of the gradient's own dtype, which a
    correctly rounded result may differ by when the naive one happens to hit."""
    x = head(seed, shape=(4, 64), width=64, vocabulary=256).to(dtype)
    upstream = upstream_for(x)
    expected, expected_gradients = truth(x, upstream)
    (logp, gradients), (naive, naive_gradients) = (run(x, upstream, path) for path in (False, True))
    assert error(logp, expected) <= error(naive, expected)
    for ours, theirs, wanted in zip(gradients, naive_gradients, expected_gradients, strict=True):
        assert ours.dtype == dtype
        floor = torch.finfo(dtype).eps / 2 * wanted.abs().max().item()
        assert error(ours, wanted) <= error(theirs, wanted) + floor


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_log_probs_of_low_precision_parameters_are_float32_good(dtype: torch.dtype) -> None:
    """64 products and 256 exponentials of order 16: 1e-4 at most, mean error far below the clip range of 3e-4.

    The naive path's errors, a hundred times that, are the guard that this test is not vacuous.
    """
    x = head(shape=(4, 64), width=64, vocabulary=256).to(dtype)
    expected, _ = truth(x, upstream_for(x))
    logp = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias)
    budget = 64 * 16 * torch.finfo(torch.float32).eps
    assert logp.dtype == torch.float32
    assert error(logp, expected) <= budget < 3e-4
    assert error(naive_logp(x), expected) > 10 * budget


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_no_bit(parameters: torch.dtype) -> None:
    x = head().to(parameters)
    upstream = upstream_for(x)
    plain = run(x, upstream, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias)
        gradients = torch.autograd.grad(logp, x.leaves(), upstream)
    assert torch.equal(logp, plain[0])
    assert all(torch.equal(a, b) for a, b in zip(gradients, plain[1], strict=True))


def test_autocast_does_degrade_the_naive_path() -> None:
    """The guard of the test above."""
    x = head().to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        degraded = naive_logp(x)
    assert error(degraded, truth(x, upstream_for(x))[0]) > 1e-3


def test_hidden_and_head_may_have_different_dtypes() -> None:
    """Float32 states on a bfloat16 head: gradients come in each one's dtype."""
    low = head().to(torch.bfloat16)
    x = low._replace(hidden=low.hidden.detach().float().requires_grad_())
    logp, gradients = run(x, upstream_for(x), False)
    assert [g.dtype for g in gradients] == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert error(logp, truth(x, upstream_for(x))[0]) <= 16 * 16 * torch.finfo(torch.float32).eps


@pytest.mark.slow
def test_the_gradient_of_the_head_accumulates_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand chunks added up in bfloat16 would lose bits; in float32 the result is the truth, rounded once."""
    x = head(shape=(1000,)).to(torch.bfloat16)
    upstream = torch.ones(1000)
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.TILE", (1, 7))
    _, gradients = run(x, upstream, False)
    _, expected = truth(x, upstream)
    eps, eps32 = torch.finfo(torch.bfloat16).eps, torch.finfo(torch.float32).eps
    for ours, wanted in zip(gradients[1:], expected[1:], strict=True):
        budget = eps / 2 * wanted.abs() + 1000 * eps32 * wanted.abs().max()
        assert ((ours.double() - wanted).abs() <= budget).all()
