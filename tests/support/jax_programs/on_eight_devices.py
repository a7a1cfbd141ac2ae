"""A program, run by test_jax_sharding.py in a process of its own with 8 host devices: prints one line per claim that holds.

Conventions under shard_map (check_vma left on), which gspo_jax.policy_loss documents:
gradients taken inside are the rank's own part of the whole gradient; the value is whole on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from support.jax_programs import on_a_mesh

from gspo_core import GSPO, GSPO_TOKEN, Clip, Objective, Padded, sharded

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
NARROW = Clip(1e-4, 1e-4)
OBJECTIVES = {name: replace(preset, surrogate=NARROW) for name, preset in {"GSPO": GSPO, "GSPO_TOKEN": GSPO_TOKEN}.items()}
MESH = jax.make_mesh((2, 4), ("data", "context"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def batch() -> Any:
    """[8, 12]: ragged rows, so that shards of the token axis are uneven and some are empty; row 3 is empty everywhere."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 1, 5, 0, 7, 3, 12, 2])
    mask = np.arange(12)[None, :] < lengths[:, None]
    old = np.where(mask, -rng.random((8, 12)) - 0.1, np.nan)
    logp = np.where(mask, old + 1e-4 * rng.normal(size=(8, 1)) + 4e-4 * rng.normal(size=(8, 12)), np.nan)
    return tuple(jnp.asarray(x) for x in (logp, old, rng.normal(size=8), mask))


def single(objective: Objective, logp: Any, old: Any, advantage: Any, mask: Any) -> Any:
    """On one device."""
    return gspo_jax.policy_loss(objective, logp, old, advantage, Padded(mask)).value


def shard_loss(objective: Objective, axes: tuple[str, ...], logp: Any, old: Any, advantage: Any, mask: Any, n: Any) -> Any:
    """A rank's loss: whole over the context axis, this rank's summand over the data axis."""
    layout = Padded(mask) if "context" not in axes else sharded(Padded(mask), lambda x: lax.psum(x, "context"))
    return gspo_jax.policy_loss(objective, logp, old, advantage, layout, denominator=n).value


TOKENS, ROWS = P("data", "context"), P("data")
SPECS = (TOKENS, TOKENS, ROWS, TOKENS, P())


def on_mesh(objective: Objective) -> Any:
    """logp, … ↦ the whole loss, data and context over the mesh."""

    @partial(jax.shard_map, mesh=MESH, in_specs=SPECS, out_specs=P())
    def value(*xs: Any) -> Any:
        return lax.psum(shard_loss(objective, ("data", "context"), *xs), "data")

    return value


def gradient_on_mesh(objective: Objective, check_vma: bool = True) -> Any:
    """logp, … ↦ gradient taken inside shard_map, a rank's part each."""

    @partial(jax.shard_map, mesh=MESH, in_specs=SPECS, out_specs=TOKENS, check_vma=check_vma)
    def gradient(*xs: Any) -> Any:
        return jax.grad(lambda logp: shard_loss(objective, ("data", "context"), logp, *xs[1:]))(xs[0])

    return gradient


def close(a: Any, b: Any) -> bool:
    """To 1e-13 of the largest."""
    a, b = np.asarray(a), np.asarray(b)
    return bool(np.isfinite(a).all() and np.abs(a - b).max() <= 1e-13 * max(np.abs(b).max(), 1e-3))


def everywhere(name: str, objective: Objective) -> dict[str, bool]:
    """By every way onto a mesh."""
    xs = batch()
    value, gradient = jax.jit(jax.value_and_grad(partial(single, objective)))(*xs)
    placed = [jax.device_put(x, NamedSharding(MESH, spec)) for x, spec in zip(xs, SPECS, strict=False)]
    auto = jax.jit(jax.value_and_grad(partial(single, objective)))(*placed)
    n = count(objective, xs[3])
    outside = jax.jit(jax.value_and_grad(on_mesh(objective)))(*xs, n)
    unchecked = jax.jit(gradient_on_mesh(objective, check_vma=False))(*xs, n)
    return {
        f"{name} NamedSharding value": close(auto[0], value),
        f"{name} NamedSharding gradient": close(auto[1], gradient) and len(auto[1].sharding.device_set) == 8,
        f"{name} shard_map value": close(outside[0], value),
        f"{name} shard_map gradient outside": close(outside[1], gradient),
        f"{name} check_vma=False is four times too large": close(unchecked, 4.0 * gradient),
    }


def inside(name: str, objective: Objective) -> dict[str, bool]:
    """The gradient that a rank takes, and how the whole loss's gradient changes in a direction."""
    xs = batch()
    logp, mask = xs[0], xs[3]
    n, clean = count(objective, mask), jnp.where(mask, logp, 0.0)
    direction = jnp.where(mask, jnp.cos(jnp.arange(96.0).reshape(8, 12)), 0.0)
    (gradient, moved), (_, ours) = (
        jax.jit(lambda v, f=f: jax.jvp(jax.grad(f), (clean,), (v,)))(direction)
        for f in (lambda x: single(objective, x, *xs[1:]), lambda x: on_mesh(objective)(x, *xs[1:], n))
    )
    return {
        f"{name} is not vacuous": bool(
            (gradient != 0).sum() > 5 and ((gradient == 0) & mask).any() and len(jax.devices()) == 8
        ),
        f"{name} shard_map gradient inside": close(jax.jit(gradient_on_mesh(objective))(*xs, n), gradient),
        f"{name} shard_map second derivative": close(ours, moved) and bool(jnp.any(moved != 0)),
    }


def count(objective: Objective, mask: Any) -> Any:
    """What the whole batch divides by."""
    return objective.count(Padded(mask)).astype(jnp.float64)


VOCABULARY = jax.make_mesh((2, 4), ("data", "vocabulary"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def vocabulary_claim(total: int, **options: Any) -> bool:
    """Log-probs (plus squared entropies) and gradients, the head's rows over four ranks and padded with NaN-free rubbish."""
    entropy = options.pop("entropy", False)
    rng, each = np.random.default_rng(total), -(-total // 4)
    hidden, weight = (jnp.asarray(rng.normal(size=s)) for s in ((4, 5, 6), (4 * each, 6)))
    bias = jnp.asarray(rng.normal(size=4 * each)) if options.pop("bias", False) else jnp.zeros(4 * each)
    tokens = jnp.asarray(rng.integers(0, total, (4, 5)).astype(np.int32))
    upstream = jnp.asarray(rng.normal(size=(4, 5)))
    axis = gspo_jax.VocabularyAxis("vocabulary", total)

    @partial(
        jax.shard_map,
        mesh=VOCABULARY,
        in_specs=(P("data"), P("vocabulary"), P("vocabulary"), P("data")),
        out_specs=P("data"),
    )
    def spread(h: Any, w: Any, b: Any, t: Any) -> Any:
        if not entropy:
            return gspo_jax.token_logp(h, w, t, bias=b, vocabulary=axis, **options)
        scores = gspo_jax.token_scores(h, w, t, bias=b, vocabulary=axis, entropy_gradient=True, sum_pi_squared=True, **options)
        return scores.logp * scores.sum_pi_squared + scores.entropy**2

    def whole(h: Any, w: Any, b: Any, t: Any) -> Any:
        z = jnp.einsum("nth,vh->ntv", h, w[:total]) + b[None, None, :total]
        cap = options.get("soft_cap")
        z = z if cap is None else cap * jnp.tanh(z / cap)
        log_p = jax.nn.log_softmax(z)
        logp = jnp.take_along_axis(log_p, t[..., None], axis=-1)[..., 0]
        if not entropy:
            return logp
        sum_pi_squared = jax.lax.stop_gradient(jnp.sum(jnp.exp(2 * log_p), axis=-1))
        return logp * sum_pi_squared + jnp.sum(jnp.exp(log_p) * log_p, axis=-1) ** 2

    def run(f: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda *xs: jnp.sum(upstream * f(*xs, tokens)), argnums=(0, 1, 2)))(
            hidden, weight, bias
        )

    (ours, gradients), (theirs, expected) = run(spread), run(whole)
    return close(ours, theirs) and all(close(a, b) for a, b in zip(gradients, expected, strict=True))


def claims() -> Iterator[tuple[str, bool]]:
    """Name and whether it holds."""
    yield from everywhere("GSPO", OBJECTIVES["GSPO"]).items()
    for name, objective in OBJECTIVES.items():
        yield from inside(name, objective).items()
    capped = {"soft_cap": 2.0, "bias": True}
    rows = {"even": (16, {}), "empty, soft cap and bias": (5, capped), "uneven, entropies": (14, {**capped, "entropy": True})}
    for name, (total, options) in rows.items():
        yield f"vocabulary {name}", vocabulary_claim(total, **options)
    for name, holds in on_a_mesh.claims():
        yield f"mesh: {name}", holds


if __name__ == "__main__":
    for name, holds in claims():
        print(f"{'holds' if holds else 'FAILS'}: {name}")
