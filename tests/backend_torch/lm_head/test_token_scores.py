"""token_scores: log-probs and entropies in one pass, the entropy's gradient on request; soft caps and infinite biases."""

from __future__ import annotations

import gspo_torch
import pytest
import torch
from support.lm_head.heads import Head, head, naive_logp
from torch import Tensor

from gspo_core import Padded

CUTS = pytest.mark.parametrize("tile", [(1, 7), (5, 20), (100, 100)], ids=str)


def naive(x: Head, temperature: float = 1.0, cap: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probs, entropies, sums of squared probabilities) from all logits at once."""
    z = x.hidden @ x.lm_head.T + (0.0 if x.bias is None else x.bias)
    z = (z if cap is None else cap * torch.tanh(z / cap)) / temperature
    log_p = torch.log_softmax(z, -1)
    p = log_p.exp()
    return log_p.gather(-1, x.tokens[..., None])[..., 0], torch.special.entr(p).sum(-1), p.square().sum(-1)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Float64: 1e-13 of the largest entry, sums of at most 50 terms."""
    assert actual.shape == expected.shape
    assert expected.abs().max() > 1e-3
    assert (actual - expected).abs().max() <= 1e-13 * max(1.0, expected.abs().max().item())


@CUTS
@pytest.mark.parametrize(("temperature", "cap"), [(1.0, None), (0.6, None), (1.0, 5.0), (1.7, 3.0)])
def test_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int], temperature: float, cap: float | None
) -> None:
    """Of a weighted sum of both, and of entropies alone, whose log-probs have no weight."""
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.TILE", tile)
    x = head()
    weights = torch.randn(2, *x.tokens.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = {"bias": x.bias, "temperature": temperature, "soft_cap": cap}
    for a, b in ((1.0, 1.0), (0.0, 1.0)):
        scores = gspo_torch.token_scores(x.hidden, x.lm_head, x.tokens, entropy_gradient=True, sum_pi_squared=True, **options)
        logp, entropy, squares = naive(x, temperature, cap)
        assert_close(scores.logp.detach(), logp.detach())
        assert_close(scores.entropy.detach(), entropy.detach())
        assert scores.sum_pi_squared is not None
        assert not scores.sum_pi_squared.requires_grad
        assert_close(scores.sum_pi_squared, squares.detach())
        mine = torch.autograd.grad((a * weights[0] * scores.logp + b * weights[1] * scores.entropy).sum(), x.leaves())
        theirs = torch.autograd.grad((a * weights[0] * logp + b * weights[1] * entropy).sum(), x.leaves())
        for gradient, expected in zip(mine, theirs, strict=True):
            assert_close(gradient, expected)


def test_an_entropy_without_a_gradient_is_a_number_to_look_at() -> None:
    x = head()
    scores = gspo_torch.token_scores(x.hidden, x.lm_head, x.tokens, bias=x.bias)
    assert scores.logp.requires_grad
    assert not scores.entropy.requires_grad
    assert_close(scores.entropy, naive(x)[1].detach())
    assert scores.sum_pi_squared is None
    assert torch.equal(scores.logp, gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias))


def test_hand_computed_numbers() -> None:
    """Logits (0, log 3): −¼ log ¼ − ¾ log ¾ = log 4 − ¾ log 3, ¼² + ¾² = 5/8. Equal logits: log V, 1/V. One token: 0, 1."""
    states, token = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0])
    two = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log()
    expected = torch.tensor(4.0).double().log() - 0.75 * torch.tensor(3.0).double().log()
    found = gspo_torch.token_scores(states, two, token, sum_pi_squared=True)
    assert abs(found.entropy - expected).item() <= 1e-15
    assert abs(found.sum_pi_squared - 0.625).item() <= 1e-15
    for size in (1, 50):
        flat = gspo_torch.token_scores(states, torch.ones(size, 1, dtype=torch.float64), token, sum_pi_squared=True)
        assert abs(flat.entropy.item() - torch.tensor(float(size)).double().log().item()) <= 1e-14
        assert abs(flat.sum_pi_squared.item() - 1 / size) <= 1e-15


def test_masked_slots_have_no_squares_static_or_not() -> None:
    x = head()
    mask = torch.arange(x.tokens.numel()).reshape(x.tokens.shape) % 3 > 0
    mask = mask if mask.ndim == 2 else mask[None]
    states, ids = x.hidden.detach().reshape(*mask.shape, -1), x.tokens.reshape(mask.shape)
    expected = torch.where(mask, naive(x)[2].detach().reshape(mask.shape), 0.0)
    dirty = torch.where(mask[..., None], states, torch.nan), x.lm_head, torch.where(mask, ids, -100)
    for static in (False, True):
        found = gspo_torch.token_scores(*dirty, bias=x.bias, layout=Padded(mask), sum_pi_squared=True, static=static)
        assert found.sum_pi_squared is not None
        assert_close(found.sum_pi_squared, expected)


def test_a_second_derivative_of_an_entropy_is_refused() -> None:
    x = head()
    scores = gspo_torch.token_scores(x.hidden, x.lm_head, x.tokens, entropy_gradient=True)
    (gradient,) = torch.autograd.grad(scores.entropy.sum(), x.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.sum().backward()


@CUTS
@pytest.mark.parametrize("out", [slice(20, 22), slice(14, 42), slice(0, 30)], ids=str)
def test_a_bias_of_minus_infinity_takes_tokens_out(monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int], out: slice) -> None:
    """As in a vocabulary padded to a round number, whole tiles of it, too: probability 0, and no NaN anywhere."""
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.TILE", tile)
    x = head()
    assert x.bias is not None
    bias = x.bias.detach().clone()
    bias[out] = -torch.inf
    x = x._replace(bias=bias.requires_grad_(), tokens=x.tokens % 8 + 42)
    scores = gspo_torch.token_scores(x.hidden, x.lm_head, x.tokens, bias=x.bias, sum_pi_squared=True)
    assert scores.sum_pi_squared is not None
    assert_close(scores.sum_pi_squared, naive(x)[2].detach())
    logp, expected = scores.logp, naive_logp(x)
    assert_close(logp.detach(), expected.detach())
    mine, theirs = (torch.autograd.grad(value.sum(), x.leaves()) for value in (logp, expected))
    for gradient, wanted in zip(mine, theirs, strict=True):
        assert_close(gradient, wanted)
    assert not mine[1][out].any()


def test_a_wrong_cap_would_be_seen() -> None:
    """The guard: 1 % of the cap."""
    x = head()
    capped = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens, bias=x.bias, soft_cap=5.05).detach()
    with pytest.raises(AssertionError):
        assert_close(capped, naive(x, 1.0, 5.0)[0].detach())
