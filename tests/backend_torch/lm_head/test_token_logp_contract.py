"""token_logp refuses wrong arguments by name, and a second derivative rather than a wrong one."""

from __future__ import annotations

from typing import Any

import gspo_torch
import pytest
import torch
from support.lm_head.heads import head, naive_logp

HIDDEN, LM_HEAD, TOKENS, BIAS = torch.zeros(2, 3, 4), torch.zeros(7, 4), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(7)

WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, r"^hidden: expected a floating-point tensor, got torch.int64", {"hidden": HIDDEN.long()}),
    (TypeError, r"^lm_head: expected a floating-point tensor, got torch.int64", {"lm_head": LM_HEAD.long()}),
    (TypeError, r"^bias: expected a floating-point tensor, got torch.int64", {"bias": BIAS.long()}),
    (TypeError, r"^hidden: expected a floating-point tensor, got torch.complex64", {"hidden": HIDDEN.to(torch.complex64)}),
    (TypeError, r"^tokens: expected int64 or int32 token ids, got torch.float32", {"tokens": TOKENS.float()}),
    (TypeError, r"^tokens: expected int64 or int32 token ids, got torch.bool", {"tokens": TOKENS.bool()}),
    (ValueError, r"^lm_head: expected \[V, H\] with H = 4 as in hidden \[2, 3, 4\], got \[4, 7\]", {"lm_head": LM_HEAD.T}),
    (ValueError, r"^lm_head: expected \[V, H\].*, got \[7\]", {"lm_head": BIAS}),
    (ValueError, r"^tokens: expected \[2, 3\], hidden without its last axis, got \[3, 2\]", {"tokens": TOKENS.T}),
    (ValueError, r"^tokens: expected \[2, 3\], .*, got \[6\]", {"tokens": TOKENS.reshape(-1)}),
    (ValueError, r"^bias: expected \[V\] = \[7\], got \[4\]", {"bias": torch.zeros(4)}),
    (ValueError, r"^bias: expected \[V\] = \[7\], got \[7, 1\]", {"bias": BIAS[:, None]}),
    *(
        (ValueError, r"^temperature: expected a positive finite number, got ", {"temperature": t})
        for t in (0.0, -1.0, float("nan"), float("inf"))
    ),
]


@pytest.mark.parametrize(("kind", "sentence", "wrong"), WRONG, ids=[f"{w[1][1:50]} {i}" for i, w in enumerate(WRONG)])
def test_wrong_arguments_are_named(kind: type[Exception], sentence: str, wrong: dict[str, Any]) -> None:
    arguments = {"hidden": HIDDEN, "lm_head": LM_HEAD, "tokens": TOKENS, "bias": BIAS} | wrong
    with pytest.raises(kind, match=sentence):
        gspo_torch.token_logp(**arguments)


@pytest.mark.parametrize("name", ["hidden", "lm_head", "tokens", "bias"])
def test_what_is_no_tensor_is_named(name: str) -> None:
    arguments: dict[str, Any] = {"hidden": HIDDEN, "lm_head": LM_HEAD, "tokens": TOKENS, "bias": BIAS}
    arguments[name] = arguments[name].numpy()
    with pytest.raises(TypeError, match=rf"^{name}: expected a"):
        gspo_torch.token_logp(**arguments)


def test_a_scalar_hidden_state_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^(hidden|lm_head): expected "):
        gspo_torch.token_logp(torch.zeros(()), LM_HEAD, torch.zeros((), dtype=torch.int64))


def test_the_good_arguments_are_good() -> None:
    assert gspo_torch.token_logp(HIDDEN, LM_HEAD, TOKENS, bias=BIAS).shape == (2, 3)


def test_a_second_derivative_is_refused() -> None:
    """Backward computes from saved numbers: its derivative would be silently wrong, so there is none."""
    x = head().to(torch.float32)
    logp = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens)
    (gradient,) = torch.autograd.grad(logp.square().sum(), x.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        gradient.sum().backward()


def test_a_second_derivative_is_refused_for_a_constant_upstream_too() -> None:
    """A gradient penalty on the plain log-likelihood: the penalty's gradient is not 0, so that leaving it out is wrong."""
    x = head().to(torch.float32)
    logp = gspo_torch.token_logp(x.hidden, x.lm_head, x.tokens)
    (gradient,) = torch.autograd.grad(logp.sum(), x.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (gradient.square().sum() - logp.sum()).backward()


def test_the_refused_second_derivative_is_not_zero() -> None:
    """The guard: what the naive path gives for the penalty of the test above."""
    x = head().to(torch.float32)
    (gradient,) = torch.autograd.grad(naive_logp(x).sum(), x.hidden, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x.hidden)
    assert second.abs().max() > 1e-3
