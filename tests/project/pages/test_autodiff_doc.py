"""docs/libraries.md says what an autodiff sees of every function of the core, and PyTorch and JAX see that."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import gspo_jax
import gspo_torch
import jax
import numpy as np
import pytest
import torch
from jax.extend import core as jax_core
from support.libraries import JAX, TORCH, Library
from support.repository import ROOT

import gspo_core
from gspo_core import (
    TIS,
    Clip,
    PerToken,
    SequenceMean,
    TokenKL,
    Turns,
    advantages,
    backend,
    clip_range,
    kl,
    layouts,
    metrics,
    mismatch,
    objectives,
    planning,
    routing,
    selection,
)
from gspo_core.objectives import CISPO, Objective

PAGE = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
TABLE = PAGE.split("## What an autodiff sees of the core")[1].split("## ")[0]
ROWS = {
    name: row[1] for row in re.findall(r"^\| (.+?) \| (.+?) \| ", TABLE, flags=re.M) for name in re.findall(r"`(\w+)`", row[0])
}
CONSTANT = [name for name, said in ROWS.items() if said == "constants"]
HOMES = [gspo_core, advantages, backend, clip_range, kl, layouts, metrics, mismatch, objectives, planning, routing, selection]

MASK = np.array([[True, True, False], [True, True, True], [True, False, True]])
IDS = np.array([5, 5, 5])
Make = Callable[[Any], Any]


def reals() -> dict[str, np.ndarray]:
    """Every real argument that a function may be given; all of them are differentiated at once."""
    rng = np.random.default_rng(0)
    tokens = {name: rng.normal(size=(3, 3)) for name in ("logp", "old_logp", "ref_logp", "sampler_logp", "values")}
    return tokens | {
        "advantage": np.array([1.0, -1.0, 0.5]),
        "denominator": np.asarray(2.0),
        "rewards": np.array([1.0, 0.0, 0.5]),
        "turns": rng.normal(size=(3, 2)),
        "old_router": rng.normal(size=(3, 3, 2, 2)),
        "router": rng.normal(size=(3, 3, 2, 2)),
    }


def calls(array: Make) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """A call of each function with everything that an autodiff could follow."""
    layout = Turns(gspo_core.Padded(array(MASK)), array(np.array([[0, 0, 0], [0, 1, 1], [0, 0, 1]])), 2)
    ids = array(IDS)

    def loss(x: dict[str, Any], objective: Objective = CISPO, advantage: Any = None) -> Any:
        given = x["advantage"] if advantage is None else advantage
        return gspo_core.policy_loss(objective, x["logp"], x["old_logp"], given, layout, denominator=x["denominator"])

    def penalty(x: dict[str, Any]) -> Any:
        options = {"reduction": SequenceMean(), "old_logp": x["old_logp"], "denominator": x["denominator"]}
        return gspo_core.kl_penalty(TokenKL(), x["logp"], x["ref_logp"], layout, **options)

    def measured(x: dict[str, Any]) -> Any:
        return gspo_core.batch_metrics(CISPO, loss(x), x["logp"], x["old_logp"], x["advantage"], layout)

    return {
        "policy_loss": lambda x: [loss(x), loss(x, objectives.ASPO, PerToken(x["values"]))],
        "kl_penalty": penalty,
        "group_advantages": lambda x: gspo_core.group_advantages(x["rewards"], ids),
        "decoupled_advantages": lambda x: advantages.decoupled_advantages([x["rewards"], x["advantage"]], ids),
        "reward_to_go": lambda x: advantages.reward_to_go(x["turns"]),
        "turn_advantages": lambda x: advantages.turn_advantages(x["turns"], layout.turn_ids, layout),
        "optimal_token_advantages": lambda x: (
            advantages.optimal_token_advantages(x["rewards"], ids, x["logp"], x["values"], layout).values
        ),
        "kept_advantages": lambda x: selection.kept_advantages(x["advantage"], layout.valid, layout).values,
        "token_covariance": lambda x: selection.token_covariance(x["logp"], x["advantage"], layout),
        "future_kl_advantages": lambda x: (
            selection.future_kl_advantages(x["logp"], x["old_logp"], x["advantage"], layout).values
        ),
        "plan": lambda x: planning.plan(x["rewards"], ids).advantage,
        "sampler_weight": lambda x: gspo_core.sampler_weight(TIS, x["old_logp"], x["sampler_logp"], layout)[:4],
        "mismatch_report": lambda x: mismatch.mismatch_report(
            x["logp"], x["old_logp"], x["sampler_logp"], x["advantage"], layout, Clip(0.1, 0.2)
        ),
        "estimate_drift": lambda x: clip_range.estimate_drift(x["logp"], x["old_logp"], layout),
        "router_shift": lambda x: routing.router_shift(x["old_router"], x["router"], layout, floor=0.5),
        "token_shares": lambda x: backend.token_shares(SequenceMean(), layout, x["denominator"]),
        "batch_metrics": measured,
        "group_metrics": lambda x: gspo_core.group_metrics(x["advantage"], ids),
        "left_out_metrics": lambda x: metrics.left_out_metrics(CISPO, x["advantage"], layout),
        "sampler_metrics": lambda x: metrics.sampler_metrics(TIS, x["old_logp"], x["sampler_logp"], layout),
        "entropy_metrics": lambda x: metrics.entropy_metrics(x["values"], layout),
        "reference_metrics": lambda x: metrics.reference_metrics(x["logp"], x["ref_logp"], layout, cap=1.0),
        "merge": lambda x: gspo_core.merge(measured(x), measured(x)),
    }


def leaves(x: Any) -> list[Any]:
    """The arrays in a result."""
    return [leaf for leaf in jax.tree_util.tree_leaves(x) if hasattr(leaf, "dtype")]


def follows_torch(call: Callable[[dict[str, Any]], Any]) -> bool:
    """Whether autograd has a path from the result to an argument."""
    found = leaves(call({name: torch.tensor(x, requires_grad=True) for name, x in reals().items()}))
    assert found
    return any(x.requires_grad for x in found)


def follows_jax(call: Callable[[dict[str, Any]], Any]) -> bool:
    """Whether a tangent of the result depends on a tangent of an argument, in what jax.jvp would compute."""

    def tangents(x: dict[str, Any], moved: dict[str, Any]) -> Any:
        return [t for t in leaves(jax.jvp(lambda y: leaves(call(y)), (x,), (moved,))[1]) if t.dtype != jax.dtypes.float0]

    with jax.enable_x64(True):
        x = {name: jax.numpy.asarray(y) for name, y in reals().items()}
        program = jax.make_jaxpr(tangents)(x, x).jaxpr
    moving = set(program.invars[len(x) :])
    for step in program.eqns:
        if any(isinstance(v, jax_core.Var) and v in moving for v in step.invars):
            moving |= set(step.outvars)
    return any(isinstance(v, jax_core.Var) and v in moving for v in program.outvars)


FOLLOWS = {TORCH.name: follows_torch, JAX.name: follows_jax}
in_both = pytest.mark.parametrize("library", [TORCH, JAX], ids=lambda library: library.name)


def test_the_table_has_every_function() -> None:
    functions = {name for home in HOMES for name in home.__all__ if inspect.isfunction(getattr(home, name))}
    assert functions - set(ROWS) == set()
    assert set(ROWS) - functions == {"select", "sum", "spread"}
    assert list(calls(np.array)) == CONSTANT


@in_both
@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_is_one(name: str, library: Library) -> None:
    assert not FOLLOWS[library.name](calls(library.array)[name])


@in_both
def test_what_is_none_would_be_found(library: Library) -> None:
    """The derivative that a layout passes on, and the one that a backend attaches."""
    layout, follows = gspo_core.Padded(library.array(MASK)), FOLLOWS[library.name]
    assert follows(lambda x: layout.sum(x["logp"]))
    module = gspo_torch if library is TORCH else gspo_jax
    assert follows(lambda x: module.policy_loss(CISPO, x["logp"], x["old_logp"], x["advantage"], layout).value)


@in_both
def test_layouts_have_the_right_derivative(library: Library) -> None:
    """Linear maps: the derivative along a direction is the map of the direction, NaN in masked slots or not."""
    x, direction = (np.where(MASK, np.random.default_rng(k).normal(size=(3, 3)), np.nan) for k in (1, 2))
    layout = gspo_core.Padded(library.array(MASK))
    for of in (layout.select, layout.sum, lambda y: layout.spread(layout.sum(y))):
        args = of, (library.array(x),), (library.array(direction),)
        tangent = torch.autograd.functional.jvp(*args)[1] if library is TORCH else jax.jvp(*args)[1]
        assert np.array_equal(library.numpy(tangent), library.numpy(of(library.array(direction))))
