"""The factor that a loss is multiplied by before it is differentiated reaches the gradients before they are rounded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gspo_jax.lm_head import two_pass
from support.jax_programs.linear_cases import arguments, array, loss_of, ring_of, small_pieces, tensor
from support.lm_head.cases import from_logits, make, packed
from support.lm_head.upstream import assert_scaled, rounded

pytestmark = pytest.mark.slow

KINDS = {"float16": (torch.float16,) * 3, "mixed": (torch.float16, torch.float32, torch.bfloat16)}
BUDGETS = {"two-pass": 0, "aligned": 400 + ring_of(4, 11)["budget_bytes"]}
FACTORS = (1.0, 65536.0, 1 / 3, -1e-8, 1e8, 1 / 7, -32768.0)


@pytest.mark.parametrize(("kind", "scheme"), [("float16", "aligned"), ("mixed", "two-pass")])
def test_gradients_are_those_of_the_scaled_loss_whatever_the_factor(kind: str, scheme: str) -> None:
    """Of a loss of ordinary size, and of one whose gradients are below float16's range; one program for all of them."""
    problem = rounded(packed(make(lengths=(3, 0, 5, 1)), seed=1), *KINDS[kind])

    def total(leaves: dict[str, Any], rest: dict[str, Any], factor: Any, denominator: Any) -> Any:
        return loss_of(problem, leaves, rest, budget_bytes=BUDGETS[scheme], denominator=denominator).value * factor

    gradients = jax.jit(jax.grad(total))
    for denominator, factor in itertools.product((4.0, 65536.0), FACTORS):
        with small_pieces():
            found = gradients(*arguments(problem), jnp.float32(factor), jnp.float32(denominator))
        whole = replace(problem, options={"denominator": denominator})
        assert_scaled(whole, float(np.float32(factor)), {name: tensor(g) for name, g in found.items()}, from_logits(whole))


@pytest.fixture
def _accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gradients of tiles are rounded to the parameters' dtype, as on a GPU."""
    jax.clear_caches()
    monkeypatch.setattr(two_pass, "_on_accelerator", lambda: True)
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("_accelerator")
@pytest.mark.parametrize("entropy", [False, True], ids=["", "entropy"])
def test_every_tokens_gradient_keeps_its_digits_on_an_accelerator(entropy: bool) -> None:
    """Weights from 1e-9 to 1e-1, as 1/(N |y|) of long and short responses: the rounding of a tile, relative to each row."""
    rng, kind = np.random.default_rng(0), torch.finfo(torch.float16)
    hidden, head = (torch.from_numpy(rng.normal(size=size)).half() for size in ((9, 8), (50, 8)))
    tokens, weight = torch.from_numpy(rng.integers(0, 50, 9)), 10.0 ** -torch.arange(1, 10).double()

    def total(rows: Any, weights: Any) -> Any:
        scores = gspo_jax.token_scores(rows, array(head), array(tokens.int()), entropy_gradient=entropy)
        return jnp.sum(weights * (scores.entropy if entropy else scores.logp))

    wide = hidden.double().requires_grad_()
    log_p = torch.log_softmax(wide @ head.double().T, -1)
    scores = -(log_p.exp() * log_p).sum(1) if entropy else log_p.gather(1, tokens[:, None])[:, 0]
    (truth,) = torch.autograd.grad((weight * scores).sum(), wide)
    gradient = jax.jit(jax.grad(total))
    for factor in (1e-8, 1.0, 65536.0):
        mine = tensor(gradient(array(hidden), array((factor * weight).float()))).double()
        allowed = 4 * kind.eps * factor * truth.norm(dim=1, keepdim=True) + kind.eps * kind.tiny
        assert ((mine - factor * truth).abs() <= allowed).all()
