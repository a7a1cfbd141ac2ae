"""gspo_jax.token_logp with a layout: a token array with 0 in masked slots, whose rows no tile visits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gspo_jax.lm_head import blocks, two_pass
from support.budgets import assert_within
from support.jax_programs.linear_cases import small_pieces

from gspo_core import Packed, Padded, Turns, sharded
from gspo_core.layouts import Layout, Restricted

V, H = 23, 6
MASK = np.array([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1]], dtype=bool)
RNG = np.random.default_rng(3)
HIDDEN, HEAD, BIAS = RNG.normal(size=(3, 6, H)), RNG.normal(size=(V, H)), RNG.normal(size=V)
TOKENS, UPSTREAM = RNG.integers(0, V, MASK.shape), RNG.normal(size=MASK.shape)


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    """Tiles of four tokens and five rows of the head, float64."""
    with small_pieces(), jax.enable_x64(True):
        yield


def layouts() -> dict[str, Layout]:
    """Every layout of the mask's slots."""
    mask = jnp.asarray(MASK)
    ids = jnp.asarray(np.where(MASK, np.arange(3)[:, None], -1).reshape(-1))
    return {
        "padded": Padded(mask),
        "turns": Turns(Padded(mask), jnp.where(mask, 0, -1), 1),
        "restricted": Restricted(Padded(jnp.ones_like(mask)), mask),
        "shard": sharded(Padded(mask), lambda n: 2 * n),
        "packed": Packed(ids, 3),
    }


def truth() -> tuple[Any, Any, Any]:
    """(log-probs, gradients of Σ upstream · logp for hidden and head) of full logits in clean slots, NumPy."""
    z = HIDDEN @ HEAD.T + BIAS
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    logp = np.where(MASK, np.log(np.take_along_axis(p, TOKENS[..., None], -1)[..., 0]), 0.0)
    d_logits = np.where(MASK, UPSTREAM, 0.0)[..., None] * (np.eye(V)[TOKENS] - p)
    return logp, d_logits @ HEAD, np.einsum("ntv,nth->vh", d_logits, HIDDEN)


def arrays(poison: float = np.nan, token: int = -100) -> tuple[Any, Any, Any]:
    """(hidden, tokens, upstream), rubbish in masked slots."""
    dirty = (np.where(MASK[..., None], HIDDEN, poison), np.where(MASK, TOKENS, token), np.where(MASK, UPSTREAM, np.nan))
    return tuple(jnp.asarray(x) for x in dirty)  # type: ignore[return-value]  # three in, three out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(layouts()))
def test_values_and_gradients_are_those_of_valid_tokens_alone(name: str) -> None:
    """Rubbish in masked slots reaches nothing; values and gradients are exactly 0 there."""
    layout = layouts()[name]
    hidden, tokens, upstream = arrays()
    if len(layout.shape) == 1:
        hidden, tokens, upstream = hidden.reshape(-1, H), tokens.reshape(-1), upstream.reshape(-1)

    def logp(hidden: Any, head: Any, layout: Layout) -> Any:
        return gspo_jax.token_logp(hidden, head, tokens, layout=layout, bias=jnp.asarray(BIAS))

    def both(hidden: Any, head: Any, layout: Layout) -> tuple[Any, Any]:
        found, pull_back = jax.vjp(lambda h, w: logp(h, w, layout), hidden, head)
        return found, pull_back(upstream)

    found, (d_hidden, d_head) = jax.jit(both)(hidden, jnp.asarray(HEAD), layout)
    assert found.shape == layout.shape
    expected, of_hidden, of_head = truth()
    assert_within(found.reshape(MASK.shape), expected, 1e-13 * 10)
    assert_within(d_hidden.reshape(HIDDEN.shape), of_hidden, 1e-13 * 10)
    assert_within(d_head, of_head, 1e-13 * 10)
    assert not np.any(np.asarray(found.reshape(MASK.shape))[~MASK])
    assert not np.any(np.asarray(d_hidden.reshape(HIDDEN.shape))[~MASK])


@pytest.mark.slow
@pytest.mark.parametrize(("poison", "token"), [(np.nan, -100), (np.inf, V), (1e300, 2**40)])
def test_nothing_in_a_masked_slot_changes_a_bit(poison: float, token: int) -> None:
    def both(hidden: Any, tokens: Any, upstream: Any) -> Any:
        def logp(hidden: Any, head: Any) -> Any:
            return gspo_jax.token_logp(hidden, head, tokens, layout=Padded(jnp.asarray(MASK)))

        found, pull_back = jax.vjp(logp, hidden, jnp.asarray(HEAD))
        return found, *pull_back(upstream)

    dirty, clean = (both(*arrays(*rubbish)) for rubbish in ((poison, token), (0.0, 0)))
    assert all(np.array_equal(a, b) for a, b in zip(dirty, clean, strict=True))


@pytest.mark.slow
def test_masked_slots_go_through_no_tile() -> None:
    """Six of eighteen slots hold tokens: two tiles of four, in forward and in backward. Without a layout five and five."""
    seen: list[int] = []
    tile = blocks.tile

    def counted(rows: Any, *rest: Any) -> Any:
        jax.debug.callback(lambda: seen.append(len(rows)))
        return tile(rows, *rest)

    def rows(layout: Layout | None) -> int:
        seen.clear()
        hidden, tokens, _ = arrays(0.0, 0)
        total = jax.jit(lambda h: jnp.sum(gspo_jax.token_logp(h, jnp.asarray(HEAD), tokens, layout=layout)))
        jax.block_until_ready(jax.grad(total)(hidden))
        jax.effects_barrier()
        return sum(seen) // 5  # blocks of the vocabulary

    programs = (two_pass._scores, two_pass._sorted_gradients)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "tile", counted)
        for program in programs:
            program.clear_cache()
        assert rows(Padded(jnp.asarray(MASK))) == 8 + 8
        assert rows(None) == 20 + 20
    for program in programs:
        program.clear_cache()


@pytest.mark.slow
def test_under_vmap_every_example_has_its_own_mask() -> None:
    hidden, tokens, _ = arrays()
    expected = truth()[0]

    def one(hidden: Any, tokens: Any, mask: Any) -> Any:
        return gspo_jax.token_logp(
            hidden[None], jnp.asarray(HEAD), tokens[None], layout=Padded(mask[None]), bias=jnp.asarray(BIAS)
        )[0]

    assert_within(jax.jit(jax.vmap(one))(hidden, tokens, jnp.asarray(MASK)), expected, 1e-13 * 10)


@pytest.mark.slow
def test_a_hessian_vector_product_is_that_of_valid_tokens_alone() -> None:
    """Of Σ logp³, forward over reverse."""
    hidden, tokens, _ = arrays()

    def mine(head: Any) -> Any:
        return jnp.sum(gspo_jax.token_logp(hidden, head, tokens, layout=Padded(jnp.asarray(MASK))) ** 3)

    def naive(head: Any) -> Any:
        log_p = jax.nn.log_softmax(jnp.asarray(HIDDEN[MASK]) @ head.T)
        return jnp.sum(jnp.take_along_axis(log_p, jnp.asarray(TOKENS[MASK])[:, None], 1) ** 3)

    head, direction = jnp.asarray(HEAD), jnp.cos(jnp.arange(V * H, dtype=jnp.float64)).reshape(V, H)
    found, expected = (jax.jit(lambda v, f=f: jax.jvp(jax.grad(f), (head,), (v,))[1])(direction) for f in (mine, naive))
    assert_within(found, expected, 1e-12 * np.abs(expected).max())
    assert np.abs(expected).max() > 1


@pytest.mark.parametrize(
    ("kind", "sentence", "layout"),
    [
        (TypeError, r"^layout: expected a layout such as Padded\(mask\), got ArrayImpl", jnp.asarray(MASK)),
        (TypeError, r"^layout: expected a layout of jax arrays, got one of numpy.ndarray", Padded(MASK)),
        (ValueError, r"^tokens: expected the layout's shape \[3, 5\], got \[3, 6\]", Padded(jnp.asarray(MASK[:, 1:]))),
    ],
)
def test_a_wrong_layout_is_refused(kind: type[Exception], sentence: str, layout: Any) -> None:
    hidden, tokens, _ = arrays()
    with pytest.raises(kind, match=sentence):
        gspo_jax.token_logp(hidden, jnp.asarray(HEAD), tokens, layout=layout)
