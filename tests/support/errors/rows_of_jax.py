"""Wrong calls of gspo_jax, one row per error. What it hands on to the core is refused by the core's own rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gspo_jax
import jax.numpy as jnp
import numpy as np
import torch
from support.errors.places import Row
from support.errors.rows import T, V

from gspo_core import GSPO, Padded, PerToken
from gspo_core.kl import K3, KLTerm

GOOD: dict[str, Any] = {
    "hidden": jnp.zeros((2, 3, 4)),
    "lm_head": jnp.zeros((5, 4)),
    "tokens": jnp.zeros((2, 3), dtype=jnp.int32),
}


def scored(**wrong: Any) -> Callable[[], Any]:
    """Log-probs with some arguments replaced."""
    return lambda: gspo_jax.token_logp(**{**GOOD, **wrong})


def lossy(**wrong: Any) -> Callable[[], Any]:
    """A loss on hidden states with some arguments replaced."""
    batch = {"old_logp": jnp.zeros((2, 3)), "advantage": jnp.ones(2), "layout": Padded(jnp.ones((2, 3), dtype=bool))}
    return lambda: gspo_jax.linear_policy_loss(GSPO, **{**GOOD, **batch, **wrong})


def loss(**wrong: Any) -> Callable[[], Any]:
    """A loss on log-probs with some arguments replaced."""
    good = {"logp": jnp.zeros((2, 3)), "old_logp": jnp.zeros((2, 3)), "advantage": jnp.ones(2)}
    return lambda: gspo_jax.policy_loss(GSPO, **{**good, "layout": Padded(jnp.ones((2, 3), dtype=bool)), **wrong})


JAX: list[Row] = [
    Row(T, ("logp: expected an array", "got str"), loss(logp="x")),
    Row(T, ("old_logp: expected an array without a mask", "got a MaskedArray"), loss(old_logp=np.ma.zeros((2, 3)))),
    Row(T, ("advantage: expected an array", "got type"), loss(advantage=int)),
    Row(T, ("advantage: expected an array of JAX or NumPy", "got torch.Tensor"), loss(advantage=torch.ones(2))),
    Row(T, ("logp: expected an array of numbers", "got dtype object"), loss(logp=np.full((2, 3), None))),
    Row(T, ("advantage: expected an array", "got list"), loss(advantage=PerToken([[1.0]]))),
    Row(T, ("layout: expected a layout", "got the class Padded"), loss(layout=Padded)),
    Row(T, ("on_policy: expected True or False", "got Array"), loss(on_policy=jnp.ones(3))),
    Row(T, ("allow_low_precision: expected True or False", "got None"), loss(allow_low_precision=None)),
    Row(T, ("return_logp: expected True or False", "got 1"), lossy(return_logp=1)),
    Row(T, ("entropy_gradient: expected True or False", "got 1"), lambda: gspo_jax.token_scores(**GOOD, entropy_gradient=1)),
    Row(T, ("sum_pi_squared: expected True or False", "got 1"), lambda: gspo_jax.token_scores(**GOOD, sum_pi_squared=1)),
    Row(T, ("vocabulary: expected a VocabularyAxis or None", "got str"), scored(vocabulary="v")),
    Row(T, ("name: expected the name of a mesh axis", "got None"), lambda: gspo_jax.VocabularyAxis(None, 5)),
    Row(V, ("total: expected a whole number of at least 0", "got -1"), lambda: gspo_jax.VocabularyAxis("v", -1)),
    Row(T, ("hidden: expected a jax array", "got numpy.ndarray"), scored(hidden=np.zeros((2, 3, 4)))),
    Row(T, ("lm_head: expected a floating-point array", "got int32"), scored(lm_head=jnp.zeros((5, 4), dtype=jnp.int32))),
    Row(
        T,
        ("bias: expected float16, bfloat16, float32 or float64", "got float8_e4m3fn"),
        scored(bias=jnp.zeros(5).astype(jnp.float8_e4m3fn)),
    ),
    Row(T, ("tokens: expected integer token ids", "got float32"), scored(tokens=jnp.zeros((2, 3)))),
    Row(V, ("hidden: expected shape [..., H]", "got []"), scored(hidden=jnp.zeros(()), tokens=jnp.zeros((), dtype=jnp.int32))),
    Row(V, ("lm_head: expected [V, H] with H = 4 as in hidden [2, 3, 4]", "got [5, 3]"), scored(lm_head=jnp.zeros((5, 3)))),
    Row(
        V,
        ("tokens: expected [2, 3], hidden without its last axis", "got [3]"),
        scored(tokens=jnp.zeros(3, dtype=jnp.int32)),
    ),
    Row(V, ("bias: expected [V] = [5]", "got [4]"), scored(bias=jnp.zeros(4))),
    Row(V, ("temperature: expected a positive finite number", "got 0.0"), scored(temperature=0.0)),
    Row(V, ("tokens: expected the layout's shape [3, 2]", "got [2, 3]"), lossy(layout=Padded(jnp.ones((3, 2), dtype=bool)))),
    Row(
        T,
        ("layout: expected a layout of jax arrays", "got one of numpy.ndarray"),
        lossy(layout=Padded(np.ones((2, 3), dtype=bool))),
    ),
    Row(T, ("kl: expected a KLTerm(estimator, ref_logp, coefficient) or None", "got float"), lossy(kl=0.1)),
    Row(V, ("ref_logp: expected the layout's shape [2, 3]", "got [3]"), lossy(kl=KLTerm(K3(), jnp.zeros(3), 0.1))),
    Row(V, ("entropy_bonus: expected a finite number", "got inf"), lossy(entropy_bonus=float("inf"))),
    Row(V, ("denominator: expected a positive finite number", "got 0"), lossy(denominator=0)),
    Row(V, ("budget_bytes: expected a whole number of at least 0", "got -1"), lossy(budget_bytes=-1)),
    Row(V, ("soft_cap: expected a positive finite number or None", "got -1.0"), scored(soft_cap=-1.0)),
]
