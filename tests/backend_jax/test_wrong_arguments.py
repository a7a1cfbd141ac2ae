"""One wrong argument in a valid call is refused by its name; JAX's own error does not come first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gspo_jax
import jax.numpy as jnp
import pytest
from support.wrong_arguments import WRONG, named_first, refusal

from gspo_core import GSPO, Padded, SequenceMean, TokenKL

ZEROS, LAYOUT = jnp.zeros((2, 3)), Padded(jnp.ones((2, 3), dtype=bool))
OPTIONS: dict[str, Any] = {"layout": LAYOUT, "denominator": None, "allow_low_precision": False}
LOSS = {**OPTIONS, "objective": GSPO, "logp": ZEROS, "old_logp": ZEROS, "advantage": jnp.ones(2), "on_policy": False}
KL = {**OPTIONS, "estimator": TokenKL(), "logp": ZEROS, "ref_logp": ZEROS, "old_logp": ZEROS, "reduction": SequenceMean()}
CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [(gspo_jax.policy_loss, LOSS), (gspo_jax.kl_penalty, KL)]
CASES = [(call, good, name) for call, good in CALLS for name in good]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "good", "name"), CASES, ids=[f"{call.__name__}-{name}" for call, _, name in CASES])
def test_a_wrong_argument_is_refused_by_a_name(call: Callable[..., Any], good: dict[str, Any], name: str) -> None:
    assert refusal(partial(call, **good)) is None
    raised = {kind: refusal(partial(call, **{**good, name: wrong})) for kind, wrong in WRONG.items()}
    assert {kind: repr(error) for kind, error in raised.items() if not named_first(error, set(good))} == {}
