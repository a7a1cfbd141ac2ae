"""Where Tunix computes the paper's loss, ours is the same, with its gradient and every number that its learners log."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from gspo_jax.trainers.tunix import LOGGED
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.paper import paper
from support.trainers.tunix_batches import LENGTHS, config, padded, registered, rows, saying_nothing, value_and_grad
from tunix.rl.agentic import agentic_grpo_learner
from tunix.rl.grpo import grpo_learner

from gspo_core import GRPO, GSPO_TOKEN, Objective
from gspo_core.objectives import DAPO, PRESETS, DualClip

WIDE = GSPO_TOKEN.with_clip(0.2, 0.2)
DUAL = Objective(GRPO.ratio, DualClip(0.2, 0.2, 1.5), GRPO.reduction)
SAME: dict[str, tuple[Objective, dict[str, Any]]] = {
    "gspo-token": (WIDE, {"loss_algo": "gspo-token"}),
    "grpo": (GRPO, {}),
    "grpo, epsilon 0.1": (GRPO.with_clip(0.1, 0.1), {"epsilon": 0.1}),
    "token-mean": (DAPO.with_clip(0.2, 0.2), {"loss_agg_mode": "token-mean"}),
    "KL term": (WIDE, {"loss_algo": "gspo-token", "beta": 0.3, "kl_loss_mode": "low_var_kl"}),
}
ABOUT_THE_SURROGATE = {"pg_loss/clipped_mean", "pg_clipfrac_lower"}
"""Names that mean something else here, as the module says."""


@pytest.mark.parametrize("case", SAME)
@given(seed=st.integers(0, 1000))
def test_loss_gradient_and_log_are_tunix_own(case: str, seed: int) -> None:
    """To 1e-6 in float32; log ratios within what Tunix clamps, and an empty row among the responses."""
    objective, options = SAME[case]
    batch = rows(seed)
    given_ = {"ref_per_token_logps": jnp.asarray(batch.reference)} if "beta" in options else {}
    example, options = padded(batch, **given_), config(**{"beta": 0.0, **options})
    theirs, their_log, their_grad = value_and_grad("grpo", batch.logp, example, options, log=True)
    ours, our_log, our_grad = value_and_grad(registered(objective), batch.logp, example, options, log=True)
    assert np.abs(their_grad).max() > 1e-2
    assert abs(ours - theirs) <= 1e-6
    assert np.abs(our_grad - their_grad).max() <= 1e-6
    for name in set(their_log) - ABOUT_THE_SURROGATE:
        assert abs(our_log[name] - their_log[name]) <= 2e-6, name


def test_dual_clip_is_tunix_own_but_for_its_name() -> None:
    """Tunix has epsilon_c as an attribute that some configurations have; −A·c bounds the loss of a bad token."""
    batch, options = rows(3, spread=1.0), config(beta=0.0)
    options.epsilon_c = 1.5
    theirs, _, their_grad = value_and_grad("grpo", batch.logp, padded(batch), options)
    ours, _, our_grad = value_and_grad(registered(DUAL), batch.logp, padded(batch), options)
    assert abs(ours - theirs) <= 1e-6
    assert np.abs(our_grad - their_grad).max() <= 1e-6


@pytest.mark.parametrize("preset", PRESETS)
@given(seed=st.integers(0, 1000))
def test_a_preset_is_its_paper(preset: str, seed: int) -> None:
    """By its name in Tunix's registry, value and gradient; the paper in scalar loops."""
    batch = rows(seed)
    value, _, gradient = value_and_grad(f"gspo_core_{preset.lower()}", batch.logp, padded(batch), saying_nothing())
    exact = paper(preset, *batch[:2], batch.advantage, batch.mask)
    scale = 1.0 + abs(exact.value)
    assert abs(value - exact.value) <= 2e-6 * scale
    assert np.abs(gradient - exact.grad).max() <= 2e-6 * scale
    assert not gradient[~batch.mask].any()


def test_without_old_log_probs_every_ratio_is_one() -> None:
    """num_iterations=1: the value is minus the mean advantage, and nothing is clipped."""
    batch = rows(0)
    value, log, gradient = value_and_grad(
        "gspo_core_gspo", batch.logp, padded(batch, old_per_token_logps=None), saying_nothing(), log=True
    )
    assert abs(value + batch.advantage[:3].mean()) <= 1e-6
    assert log["pg_clipfrac"] == 0.0
    assert np.abs(gradient.sum(1) + batch.advantage / 3 * (np.array(LENGTHS) > 0)).max() <= 1e-6


def _names_logged(learner: Any) -> set[str]:
    """The names that a learner asks of aux, from its text: keys of the dictionary given to with_rl_metrics_to_log."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(learner))) if isinstance(node, ast.Call)]
    asked = [c.args[0] for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "with_rl_metrics_to_log"]
    return {key.value for dictionary in asked for key in dictionary.keys}  # type: ignore[attr-defined]


def test_aux_has_every_name_that_a_learner_logs() -> None:
    """One that is absent is a KeyError in the middle of a training."""
    asked = _names_logged(grpo_learner) | _names_logged(agentic_grpo_learner)
    assert len(asked) > 10
    _, log, _ = value_and_grad("gspo_core_gspo", rows(0).logp, padded(rows(0)), saying_nothing(), log=True)
    assert asked | set(LOGGED) <= set(log)


def test_our_metrics_merge_over_the_micro_batches_of_a_step() -> None:
    """Responses of different lengths, two to a micro-batch: each number is that of all four."""
    whole = rows(5, (6, 3, 1, 2), spread=1e-3)
    parts = [type(whole)(*(x[k : k + 2] for x in whole)) for k in (0, 2)]
    logs = [value_and_grad("gspo_core_gspo", x.logp, padded(x), saying_nothing(), log=True)[1] for x in (whole, *parts)]
    for name in (name for name in LOGGED if name.startswith("gspo/")):
        one, two = LOGGED[name]([logs[0][name]]), LOGGED[name]([log[name] for log in logs[1:]])
        assert one == pytest.approx(two, rel=1e-5), name
    assert 0 < LOGGED["gspo/clip_active"]([logs[0]["gspo/clip_active"]]) < 1
