"""gspo_jax.token_scores: log-probs and entropies of full logits in one pass, and the entropy's gradient where it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gspo_jax import TokenScores
from jax import lax
from support.budgets import assert_within
from support.jax_programs.linear_cases import largest_array, small_pieces

from gspo_core import Padded

pytestmark = pytest.mark.slow

V, H = 23, 6
MASK = np.array([[0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1]], dtype=bool)
RNG = np.random.default_rng(4)
HIDDEN, HEAD, BIAS = RNG.normal(size=(3, 6, H)), RNG.normal(size=(V, H)), RNG.normal(size=V)
TOKENS, UPSTREAM = RNG.integers(0, V, MASK.shape), RNG.normal(size=(3, *MASK.shape))


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    """Tiles of four tokens and five rows of the head, float64."""
    with small_pieces(), jax.enable_x64(True):
        yield


def ours(parameters: dict[str, Any], layout: Any = None, dirty: bool = False, **options: Any) -> TokenScores:
    """The function under test, with rubbish in masked slots if `dirty`."""
    hidden, tokens = parameters["hidden"], jnp.asarray(TOKENS)
    if dirty:
        hidden, tokens = jnp.where(MASK[..., None], hidden, jnp.nan), jnp.where(MASK, tokens, -100)
    rest = {"bias": parameters["bias"], "layout": layout, "sum_pi_squared": True, **options}
    return gspo_jax.token_scores(hidden, parameters["lm_head"], tokens, **rest)


def naive(parameters: dict[str, Any], temperature: float = 1.0, soft_cap: float | None = None) -> TokenScores:
    """From all logits at once; a probability of 0 adds nothing to an entropy."""
    z = jnp.einsum("nth,vh->ntv", parameters["hidden"], parameters["lm_head"]) + parameters["bias"][None, None]
    z = z if soft_cap is None else soft_cap * jnp.tanh(z / soft_cap)
    log_p = jax.nn.log_softmax(z / temperature)
    seen = log_p > -jnp.inf
    entropy = -jnp.sum(jnp.where(seen, jnp.exp(log_p) * jnp.where(seen, log_p, 0.0), 0.0), axis=-1)
    squares = lax.stop_gradient(jnp.sum(jnp.exp(log_p) ** 2, axis=-1))
    return TokenScores(jnp.take_along_axis(log_p, jnp.asarray(TOKENS)[..., None], -1)[..., 0], entropy, squares)


PARAMETERS = {"hidden": HIDDEN, "lm_head": HEAD, "bias": BIAS}


def both(f: Any, g: Any, weights: tuple[float, float], mask: Any = None, **changed: Any) -> list[Any]:
    """(scores, gradients of a weighted sum of both) of f and of g; other slots than the mask's are left out."""
    parameters = {name: jnp.asarray(changed.get(name, x)) for name, x in PARAMETERS.items()}

    def run(function: Any) -> Any:
        def total(parameters: dict[str, Any]) -> Any:
            found = function(parameters)
            if mask is not None:
                found = TokenScores(*(jnp.where(mask, x, 0.0) for x in found))
            parts = [w * jnp.asarray(u) * x for w, u, x in zip((*weights, 1.0), UPSTREAM, found, strict=True)]
            return jnp.sum(sum(parts)), found

        gradients, scores = jax.jit(jax.grad(total, has_aux=True))(parameters)
        return scores, gradients

    return [run(f), run(g)]


def assert_equal(found: Any, expected: Any) -> None:
    """Float64: 1e-13 of the largest entry, sums of tens of terms."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_within(a, b, 1e-13 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, (1.0, 1.0)),
        ({"temperature": 0.6}, (0.0, 1.0)),
        ({"soft_cap": 2.0}, (0.0, 1.0)),
        ({"temperature": 1.7, "soft_cap": 3.0}, (1.0, 1.0)),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_full_logits(options: dict[str, Any], weights: tuple[float, float]) -> None:
    """For hidden, lm_head and bias; of both, or of the entropy alone."""
    found, expected = both(lambda x: ours(x, entropy_gradient=True, **options), lambda x: naive(x, **options), weights)
    assert_equal(found, expected)
    assert all(np.abs(g).max() > 1e-2 for g in expected[1].values())


def test_masked_slots_have_neither_value_nor_gradient() -> None:
    """With NaN and −100 there."""
    layout = Padded(jnp.asarray(MASK))
    mine, theirs = both(lambda x: ours(x, layout, True, entropy_gradient=True), naive, (1.0, 1.0), MASK)
    assert_equal(mine, theirs)
    assert not np.any(np.asarray(mine[1]["hidden"])[~MASK])
    scores = ours({name: jnp.asarray(x) for name, x in PARAMETERS.items()}, layout, True)
    assert not any(np.any(np.asarray(x)[~MASK]) for x in scores)


def test_an_entropy_without_a_gradient_is_a_constant() -> None:
    """And the log-probs are those of token_logp, bit for bit."""
    parameters = {name: jnp.asarray(x) for name, x in PARAMETERS.items()}
    gradients = jax.grad(lambda x: jnp.sum(ours(x).entropy))(parameters)
    assert not any(np.any(g) for g in gradients.values())
    found = ours(parameters)
    assert ours(parameters, sum_pi_squared=False).sum_pi_squared is None
    assert_equal(found, naive(parameters))
    logp = gspo_jax.token_logp(parameters["hidden"], parameters["lm_head"], jnp.asarray(TOKENS), bias=parameters["bias"])
    assert jnp.array_equal(found.logp, logp)


@pytest.mark.parametrize("out", [slice(20, 22), slice(5, 15), slice(0, 10)], ids=str)
def test_a_bias_of_minus_infinity_takes_tokens_out(out: slice) -> None:
    """Whole blocks of the vocabulary, too: probability 0, and no NaN anywhere."""
    bias = BIAS.copy()
    bias[out] = -np.inf
    tokens = [v for v in range(V) if np.isfinite(bias[v])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "TOKENS", np.array(tokens)[TOKENS % len(tokens)])
        found, expected = both(lambda x: ours(x, entropy_gradient=True), naive, (1.0, 1.0), bias=bias)
    assert_equal(found, expected)
    assert not np.any(found[1]["bias"][out])


def test_hand_computed_entropies() -> None:
    """Logits (0, log 3): −¼ log ¼ − ¾ log ¾ = log 4 − ¾ log 3. Equal logits: log V. One token: 0."""
    states, token = jnp.ones((1, 1)), jnp.zeros(1, dtype=jnp.int32)
    found = gspo_jax.token_scores(states, jnp.log(jnp.array([[1.0], [3.0]])), token)
    assert_within(found.entropy, np.array([np.log(4.0) - 0.75 * np.log(3.0)]), 1e-15)
    for size in (1, 50):
        flat = gspo_jax.token_scores(states, jnp.ones((size, 1)), token)
        assert_within(flat.entropy, np.array([np.log(float(size))]), 1e-14)


def test_there_is_no_array_of_tokens_times_vocabulary() -> None:
    hidden, head = jnp.zeros((4, 10, H), dtype=jnp.float32), jnp.zeros((60, H), dtype=jnp.float32)

    def total(hidden: Any, head: Any) -> Any:
        found = gspo_jax.token_scores(hidden, head, jnp.zeros((4, 10), dtype=jnp.int32), entropy_gradient=True)
        return jnp.sum(found.logp) + jnp.sum(found.entropy)

    assert largest_array(jax.grad(total, argnums=(0, 1)), hidden, head) <= 60 * H
