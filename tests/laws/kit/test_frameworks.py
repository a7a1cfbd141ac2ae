"""Losses in PyTorch and JAX: recognised, differentiated by their own autodiff, and their own mistakes are caught."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gspo_jax
import gspo_torch
import jax
import jax.numpy as jnp
import pytest
import torch
from torch import Tensor

from gspo_core import GSPO, GSPO_TOKEN, Padded, laws
from gspo_core.laws import Claim
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.mutants.mutant import LIKE, LIKE_TOKEN

DETACHED = "no gradient reaches old log-probs or advantages"
COMPILED = "the compiled loss equals the eager loss"


@pytest.fixture(autouse=True)
def _jax_as_it_comes() -> Iterator[None]:
    """These losses are written for JAX's default type promotion, which the test suite makes strict elsewhere."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def log_s(logp: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """[N] mean log ratios, below the guard at 50."""
    d = torch.where(mask, logp, 0) - torch.where(mask, old, 0)
    return (d.sum(-1) / mask.sum(-1).clamp(min=1)).clamp(max=50)


def reduced(gain: Tensor, mask: Tensor) -> Tensor:
    """−mean over non-empty rows."""
    return -torch.where(mask.any(-1), gain, 0).sum() / mask.any(-1).sum().clamp(min=1)


def clipped(s: Tensor, a: Tensor) -> Tensor:
    """min(s A, clip(s) A)."""
    return torch.minimum(s * a, s.clamp(0.8, 1.3) * a)


def gspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5."""
    return reduced(clipped(log_s(logp, old_logp.detach(), mask).exp(), advantage.detach()), mask)


def token_form(logp: Tensor, a: Tensor, mask: Tensor, s: Tensor) -> Tensor:
    """Eq. 13 for a given s."""
    a = a if a.ndim == 2 else a[:, None]
    logp, a = torch.where(mask, logp, 0), torch.where(mask, a, 0)
    gain = torch.where(mask, clipped(s[:, None] * (logp - logp.detach()).exp(), a), 0)
    return reduced(gain.sum(-1) / mask.sum(-1).clamp(min=1), mask)


def gspo_token(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 13, stop-gradients as printed."""
    return token_form(logp, advantage, mask, log_s(logp, old_logp, mask).exp().detach())


def without_stop_gradient(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Mutant 15: s_i not detached, twice the gradient."""
    return token_form(logp, advantage, mask, log_s(logp, old_logp, mask).exp())


def denominator_with_gradient(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """π/π in place of π/sg[π]: no gradient at all."""
    s = log_s(logp, old_logp, mask).exp().detach()[:, None].expand(logp.shape)
    a = advantage if advantage.ndim == 2 else advantage[:, None]
    gain = torch.where(mask, clipped(s, torch.where(mask, a, 0)), 0)
    return reduced(gain.sum(-1) / mask.sum(-1).clamp(min=1), mask) + 0 * torch.where(mask, logp, 0).sum()


def advantages_in_the_graph(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Mutant 14: neither advantages nor old log-probs are detached."""
    return reduced(clipped(log_s(logp, old_logp, mask).exp(), advantage), mask)


def half_precision(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Sums in float16."""
    return gspo(logp.half(), old_logp.half(), advantage.half(), mask).float()


MUTANTS: list[tuple[Any, str, Any]] = [
    (without_stop_gradient, "on policy the gradient is REINFORCE's", LIKE_TOKEN),
    (denominator_with_gradient, "a good response is made likelier, a bad one less likely", LIKE_TOKEN),
    (advantages_in_the_graph, DETACHED, LIKE),
    (half_precision, "with float32 inputs the loss is accurate to float32", LIKE),
]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [gspo, gspo_token], ids=lambda loss: loss.__name__)
def test_the_papers_formulas_in_torch_keep_their_laws(loss: Any) -> None:
    like = LIKE if loss is gspo else LIKE_TOKEN
    report = laws.check(loss, like, examples=4, claims={Claim.DETACHED} if loss is gspo else ())
    assert report.framework == "torch"
    # Beyond e⁵⁰ both are flat, where the law about overflow guards no longer applies.
    assert not report.wrong, str(report)


@pytest.mark.parametrize(("loss", "law", "like"), MUTANTS, ids=[loss.__name__ for loss, *_ in MUTANTS])
def test_what_autograd_gets_wrong_breaks_the_law_named_beside_it(loss: Any, law: str, like: Any) -> None:
    report = laws.check(loss, like, claims={Claim.DETACHED}, laws=[named(law)])
    assert [v.law.name for v in report.broken] == [law]


@pytest.mark.slow
@pytest.mark.parametrize("preset", [GSPO, GSPO_TOKEN], ids=["GSPO", "GSPO_TOKEN"])
def test_our_torch_backend_keeps_the_laws_under_autograd(preset: Any) -> None:
    objective = replace(preset, surrogate=LIKE.surrogate)

    def loss(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, denominator: float | None) -> Tensor:
        return gspo_torch.policy_loss(objective, logp, old_logp, advantage, Padded(mask), denominator=denominator).value

    names = laws.Names(denominator="denominator")
    report = laws.check(loss, objective, names=names, claims={Claim.EDGES}, framework=laws.TORCH, examples=2)
    assert not report.wrong, str(report)
    assert {"exactly on a bound a unit has a gradient", "splitting the batch into parts does not change the loss"} <= {
        v.law.name for v in report.kept
    }


@pytest.mark.slow
def test_our_jax_backend_keeps_the_laws_under_jax_grad() -> None:
    objective = replace(GSPO_TOKEN, surrogate=LIKE.surrogate)

    def loss(logp: Any, old_logp: Any, advantage: Any, mask: Any, denominator: float | None) -> Any:
        return gspo_jax.policy_loss(objective, logp, old_logp, advantage, Padded(mask), denominator=denominator).value

    names = laws.Names(denominator="denominator")
    report = laws.check(loss, objective, names=names, claims={Claim.EDGES}, framework=laws.JAX, examples=1)
    assert not report.wrong, str(report)
    assert len(report.kept) > 45
    assert {COMPILED, "exactly on a bound a unit has a gradient"} <= {v.law.name for v in report.kept}


def jax_gspo(logp: jax.Array, old_logp: jax.Array, advantage: jax.Array, mask: jax.Array) -> jax.Array:
    """Eq. 5 in JAX."""
    d = jnp.where(mask, logp, 0) - jnp.where(mask, old_logp, 0)
    s = jnp.exp(jnp.minimum(d.sum(-1) / jnp.maximum(mask.sum(-1), 1), 50.0))
    gain = jnp.minimum(s * advantage, jnp.clip(s, 0.8, 1.3) * advantage)
    return -jnp.where(mask.any(-1), gain, 0).sum() / jnp.maximum(mask.any(-1).sum(), 1)


def jax_eager_only(logp: jax.Array, old_logp: jax.Array, advantage: jax.Array, mask: jax.Array) -> jax.Array:
    """Looks at values, as no traced function may."""
    return jax_gspo(logp, old_logp, advantage, mask) if bool(mask.any()) else jnp.zeros(()) + 0.0 * logp.sum()


_SEEN: dict[tuple[int, ...], Any] = {}


def jax_frozen(logp: jax.Array, old_logp: jax.Array, advantage: jax.Array, mask: jax.Array) -> jax.Array:
    """Lengths of the first batch of a shape are kept for all later ones: compiled in as a constant."""
    concrete = not isinstance(mask, jax.core.Tracer)
    if concrete:
        _SEEN.setdefault(mask.shape, mask)
    kept = _SEEN.get(mask.shape, jnp.ones(mask.shape, dtype=bool))
    return jax_gspo(logp, old_logp, advantage, kept & mask) if not concrete else jax_gspo(logp, old_logp, advantage, mask)


@pytest.mark.slow
def test_a_jax_loss_is_recognised_and_keeps_its_laws() -> None:
    report = laws.check(jax_gspo, LIKE, examples=1)
    assert report.framework == "jax"
    assert not report.wrong, str(report)
    assert COMPILED in {v.law.name for v in report.kept}
    assert DETACHED in {v.law.name for v in report.fragile}, "advantages are in the graph here"


@pytest.mark.slow
def test_a_jax_loss_that_cannot_be_traced_is_run_eagerly() -> None:
    """By numbers computed by hand, value and gradient."""
    asked = [named("the loss equals numbers computed by hand")]
    assert laws.check(jax_eager_only, LIKE, laws=asked, framework=laws.JAX, examples=3).kept


@pytest.mark.slow
def test_a_mask_that_tracing_has_frozen_breaks_the_law_about_compiling() -> None:
    _SEEN[(2, 3)] = jnp.array([[True, False, False], [True, True, True]])
    report = laws.check(jax_frozen, LIKE, laws=[named(COMPILED)], framework=laws.JAX)
    assert [v.law.name for v in report.broken] == [COMPILED]
