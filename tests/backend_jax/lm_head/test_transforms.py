"""gspo_jax.linear_policy_loss under jit, scan, remat, vmap, forward over reverse; forward mode alone is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.budgets import assert_within
from support.jax_programs.linear_cases import arguments, loss_of, ours, ring_of, small_pieces
from support.jax_programs.losses import traces
from support.lm_head.cases import from_logits, make, packed

from gspo_core import GSPO_TOKEN, Padded

pytestmark = pytest.mark.slow

BUDGETS = pytest.mark.parametrize("budget", [{"budget_bytes": 0}, ring_of(8, 11)], ids=["two-pass", "aligned"])


@pytest.fixture(autouse=True)
def _small() -> Any:
    """Several chunks and blocks in every problem."""
    with small_pieces():
        yield


def test_jit_compiles_once_per_bucket() -> None:
    """Twelve lengths, padded to 8 or to 16."""
    widths = {8: range(3, 9), 16: range(9, 15)}
    problem = make(lengths=(16, 15), width=5).to(torch.float32)
    parameters, rest = arguments(problem)

    def value(hidden: Any, old: Any, tokens: Any, layout: Padded) -> Any:
        others = {"old_logp": old, "tokens": tokens, "layout": layout, "advantage": rest["advantage"]}
        return loss_of(problem, {**parameters, "hidden": hidden}, others).value

    f, seen = traces(jax.value_and_grad(value))
    for width, lengths in widths.items():
        for length in lengths:
            mask = jnp.arange(width)[None, :] < jnp.array([[length], [length - 1]])
            got, gradient = f(
                parameters["hidden"][:, :width], rest["old_logp"][:, :width], rest["tokens"][:, :width], Padded(mask)
            )
            assert np.isfinite(got)
            assert np.count_nonzero(np.any(gradient != 0, axis=-1)) in (0, length - 1, length, 2 * length - 1)
    assert len(seen) == len(widths)


def test_under_jit_the_answer_is_that_without() -> None:
    """The aligned way; two-pass is compared with the truth both under jit and without (test_linear.py)."""
    problem, budget = packed(make(), seed=2), ring_of(8, 11)
    eager, compiled = ours(problem, **budget), ours(problem, jit=True, **budget)
    assert_within(compiled.value, eager.value, 1e-15)
    for name, gradient in compiled.gradients.items():
        assert_within(gradient, eager.gradients[name], 1e-14)


@pytest.mark.parametrize(
    ("budget", "way"), [({"budget_bytes": 0}, "vmap"), (ring_of(8, 11), "scan")], ids=["two-pass, vmap", "aligned, scan"]
)
def test_micro_batches_under_scan_remat_and_vmap_add_up_to_the_whole(budget: dict[str, int], way: str) -> None:
    """Two halves of four sequences, with the whole's denominator. The other way round, with terms: test_terms.py."""
    problem = make(lengths=(3, 5, 4, 1), options={"denominator": 4.0})
    truth = from_logits(problem)
    with jax.enable_x64(True):
        parameters, rest = arguments(problem)
        mask = rest.pop("layout").mask
        parts = {k: v.reshape(2, 2, *v.shape[1:]) for k, v in {"hidden": parameters["hidden"], "mask": mask, **rest}.items()}

        def part(head: Any, x: dict[str, Any]) -> Any:
            others = {"layout": Padded(x["mask"]), **{k: x[k] for k in rest}}
            return loss_of(
                problem, {"hidden": x["hidden"], "lm_head": head, "bias": parameters["bias"]}, others, **budget
            ).value

        def scanned(head: Any) -> Any:
            return jax.lax.scan(lambda total, x: (total + jax.checkpoint(part)(head, x), None), jnp.zeros(()), parts)[0]

        def mapped(head: Any) -> Any:
            return jnp.sum(jax.vmap(part, in_axes=(None, 0))(head, parts))

        value, gradient = jax.jit(jax.value_and_grad(scanned if way == "scan" else mapped))(parameters["lm_head"])
        assert_within(value, truth.value, 1e-13)
        assert_within(gradient, truth.gradients["lm_head"], 1e-13)


def test_hessian_vector_products_are_those_of_full_logits() -> None:
    """Forward over reverse; GSPO-token's stop-gradients make it differ from the Hessian of the value. GSPO: test_terms.py."""
    problem = make(objective=GSPO_TOKEN, drift=1e-5, bias=None)
    with jax.enable_x64(True):
        parameters, rest = arguments(problem)
        mask = rest["layout"].mask
        clean = jnp.where(mask[..., None], parameters["hidden"], 0.0)
        tokens = jnp.where(mask, rest["tokens"], 0)

        def naive(head: Any) -> Any:
            log_p = jax.nn.log_softmax(jnp.einsum("nth,vh->ntv", clean, head))
            logp = jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
            return gspo_jax.policy_loss(GSPO_TOKEN, logp, rest["old_logp"], rest["advantage"], rest["layout"]).value

        def mine(head: Any, **budget: int) -> Any:
            return loss_of(problem, {**parameters, "lm_head": head}, rest, **budget).value

        head = parameters["lm_head"]
        direction = jnp.cos(jnp.arange(head.size, dtype=head.dtype)).reshape(head.shape)

        def product(f: Any) -> Any:
            return jax.jit(lambda v: jax.jvp(jax.grad(f), (head,), (v,))[1])(direction)

        expected = product(naive)
        assert np.abs(expected).max() > 1e-3
        for budget in ({"budget_bytes": 0}, ring_of(8, 11)):
            assert_within(product(partial(mine, **budget)), expected, 1e-12)


@BUDGETS
def test_forward_mode_alone_is_refused(budget: dict[str, int]) -> None:
    problem = make().to(torch.float32)
    parameters, rest = arguments(problem)

    def value(head: Any) -> Any:
        return loss_of(problem, {**parameters, "lm_head": head}, rest, **budget).value

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(lambda head: jax.jvp(value, (head,), (head,)))(parameters["lm_head"])


def test_readings_carry_no_gradient() -> None:
    """They are for logs: only the value is differentiable."""
    problem = make().to(torch.float32)
    parameters, rest = arguments(problem)

    def told(head: Any) -> Any:
        loss = loss_of(problem, {**parameters, "lm_head": head}, rest, return_logp=True, budget_bytes=0)
        return jnp.sum(loss.logp) + jnp.sum(loss.log_ratio) + jnp.sum(loss.logp_grad) + loss.denominator

    value, gradient = jax.jit(jax.value_and_grad(told))(parameters["lm_head"])
    assert value != 0
    assert not np.any(gradient)
