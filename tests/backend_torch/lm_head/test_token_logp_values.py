"""token_logp and its gradients are log_softmax's, however the tokens are cut into chunks."""

from __future__ import annotations

import gspo_torch
import pytest
import torch
from gspo_torch.lm_head import two_pass
from support.lm_head.heads import Head, head, naive_logp, truth
from torch import Tensor

EPS32 = torch.finfo(torch.float32).eps
TEMPERATURES = [1.0, 0.6, 2.0]


def ours(x: Head, upstream: Tensor, temperature: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    """(log-probs, gradients) of token_logp."""
    logp = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias, temperature=temperature)
    return logp.detach(), list(torch.autograd.grad(logp, x.leaves(), upstream.to(logp.dtype)))


def upstream_for(x: Head) -> Tensor:
    """Both signs and zeros, as a policy loss sends."""
    weights = torch.randn(x.tokens.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return weights * (weights.abs() > 0.3)


def assert_float32_of(actual: Tensor, expected: Tensor, terms: int) -> None:
    """A float32 sum of `terms` products of order one: terms · eps of the largest entry, and exp's few."""
    assert actual.shape == expected.shape
    budget = (terms + 16) * EPS32 * max(1.0, expected.abs().max().item())
    assert (actual.double() - expected.double()).abs().max().item() <= budget


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("chunk_tokens", [1, 2, 5, 21, 100])
def test_values_and_gradients_for_any_chunk(
    monkeypatch: pytest.MonkeyPatch, bias: bool, temperature: float, chunk_tokens: int
) -> None:
    """21 tokens and 50 entries in tiles of 1 × 7 (short last ones) up to more than all; 16 · 16 products a log-prob."""
    x = head(bias=bias).to(torch.float32)
    monkeypatch.setattr(two_pass, "TILE", (chunk_tokens, 7 * chunk_tokens))
    upstream = upstream_for(x)
    logp, gradients = ours(x, upstream, temperature)
    expected_logp, expected_gradients = truth(x, upstream, temperature)
    assert logp.dtype == torch.float32
    # The logits are 16 products of order 4 · 3; the divided temperature magnifies their rounding.
    assert_float32_of(logp, expected_logp, 16 * 16)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert_float32_of(gradient, expected, 16 * 16)


def test_hand_computed_numbers() -> None:
    """z = (0, log 3): probabilities ¼ and ¾; at temperature ½, 1/10 and 9/10."""
    hidden, lm_head = torch.ones(2, 1), torch.tensor([[0.0], [3.0]]).log1p() * 0 + torch.tensor([[0.0], [1.0986123]])
    tokens = torch.tensor([0, 1])
    assert torch.allclose(gspo_torch.token_logp(hidden, lm_head, tokens).exp(), torch.tensor([0.25, 0.75]), rtol=4 * EPS32)
    sharp = gspo_torch.token_logp(hidden, lm_head, tokens, temperature=0.5).exp()
    assert torch.allclose(sharp, torch.tensor([0.1, 0.9]), rtol=4 * EPS32)


def test_the_probabilities_of_all_tokens_sum_to_one() -> None:
    x = head(shape=(50,)).to(torch.float32)
    logp = gspo_torch.token_logp(x.hidden[:1].expand(50, -1), x.lm_head, torch.arange(50), bias=x.bias)
    assert abs(logp.double().exp().sum().item() - 1.0) <= 50 * EPS32


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 3), (0,), (3, 0)])
@pytest.mark.parametrize("tokens_dtype", [torch.int32, torch.int64], ids=str)
def test_any_leading_shape(shape: tuple[int, ...], tokens_dtype: torch.dtype) -> None:
    x = head(shape=shape).to(torch.float32)
    x = x._replace(tokens=x.tokens.to(tokens_dtype))
    upstream = upstream_for(x)
    logp, gradients = ours(x, upstream)
    expected, expected_gradients = truth(x, upstream)
    assert logp.shape == shape
    assert all(g.shape == leaf.shape for g, leaf in zip(gradients, x.leaves(), strict=True))
    if logp.numel():
        assert_float32_of(logp, expected, 256)
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            assert_float32_of(gradient, wanted, 256)


def test_logits_of_a_thousand_do_not_overflow() -> None:
    x = head().to(torch.float32)
    sharp = x._replace(lm_head=(x.lm_head.detach() * 100).requires_grad_())
    logp, gradients = ours(sharp, upstream_for(x))
    assert torch.isfinite(logp).all()
    assert all(torch.isfinite(g).all() for g in gradients)
    assert (logp <= 0).all()


def test_non_contiguous_inputs() -> None:
    x = head(shape=(6, 4)).to(torch.float32)
    turned = gspo_torch.token_logp(x.hidden.transpose(0, 1), x.lm_head, x.tokens.T, bias=x.bias)
    straight = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias)
    assert_float32_of(turned.T, straight, 16)


@pytest.mark.parametrize("wanted", ["hidden", "lm_head", "bias"])
def test_gradients_only_where_asked(wanted: str) -> None:
    """A frozen head costs no gradient of the head, and changes no other."""
    x = head().to(torch.float32)
    upstream = upstream_for(x)
    everything = dict(zip(("hidden", "lm_head", "bias"), ours(x, upstream)[1], strict=True))
    frozen = x._replace(**{name: getattr(x, name).detach() for name in everything if name != wanted})
    logp = gspo_torch.token_logp(frozen.hidden, frozen.lm_head, frozen.tokens, bias=frozen.bias)
    (logp * upstream.float()).sum().backward()
    assert torch.equal(getattr(frozen, wanted).grad, everything[wanted])
    assert all(getattr(frozen, name).grad is None for name in everything if name != wanted)


def test_without_gradients_there_is_no_graph() -> None:
    x = head().to(torch.float32)
    with torch.no_grad():
        assert not gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens).requires_grad


def test_a_wrong_bias_would_be_seen() -> None:
    """The guard of the comparison: dropping the bias is far over budget."""
    x = head().to(torch.float32)
    with pytest.raises(AssertionError):
        assert_float32_of(gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens), naive_logp(x), 16 * 16)
