"""The losses on hidden states of linear_cases.py, computed by gspo_jax."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gspo_jax.lm_head import runs, schemes, two_pass
from support.lm_head.cases import PARAMETERS, Answer, Problem
from torch import Tensor

from gspo_core import Packed, Padded, PerToken
from gspo_core.objectives import LinearLoss

DTYPES = {torch.bfloat16: jnp.bfloat16, torch.float16: jnp.float16}


def array(x: Tensor | None) -> Any:
    """On JAX, with every bit."""
    if x is None:
        return None
    x = x.detach()
    return jnp.asarray(x.float().numpy(), dtype=DTYPES[x.dtype]) if x.dtype in DTYPES else jnp.asarray(x.numpy())


def tensor(x: Any) -> Tensor:
    """In PyTorch, with every bit."""
    low = {str(np.dtype(kind)): name for name, kind in DTYPES.items()}.get(str(x.dtype))
    back = torch.from_numpy(np.array(x.astype(jnp.float32) if low else x))
    return back.to(low) if low else back


def precision(problem: Problem) -> Any:
    """Float64 on while a float64 problem is worked on; off, as is normal, otherwise."""
    return jax.enable_x64(True) if torch.float64 in (problem.hidden.dtype, problem.lm_head.dtype) else nullcontext()


def layout_of(problem: Problem) -> Padded | Packed:
    """The problem's layout."""
    layout = problem.layout
    if isinstance(layout, Packed):
        return Packed(array(layout.segment_ids.to(torch.int32)), layout.num_sequences)
    return Padded(array(layout.valid))


def arguments(problem: Problem) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, everything else) by name."""
    advantage = problem.advantage
    per_token = isinstance(advantage, PerToken)
    values = array(advantage.values if isinstance(advantage, PerToken) else advantage)
    rest = {
        "tokens": array(problem.tokens.to(torch.int32)),
        "old_logp": array(problem.old_logp),
        "advantage": PerToken(values) if per_token else values,
        "layout": layout_of(problem),
    }
    kl = problem.options.get("kl")
    if kl is not None:
        rest["kl"] = replace(kl, ref_logp=array(kl.ref_logp))
    return {name: array(getattr(problem, name)) for name in PARAMETERS}, rest


def loss_of(problem: Problem, parameters: dict[str, Any], rest: dict[str, Any], **more: Any) -> LinearLoss:
    """What is tested."""
    return gspo_jax.linear_policy_loss(problem.objective, **{**problem.options, **parameters, **rest, **more})


def ours(problem: Problem, *, jit: bool = False, **more: Any) -> Answer:
    """linear_policy_loss and its gradients."""
    return answers(problem, jit=jit, **more)(problem)


def answers(like: Problem, *, jit: bool = True, **more: Any) -> Callable[[Problem], Answer]:
    """The same for problems with this one's objective, options and leaves; compiled once for each shape."""
    leaf_names = list(like.leaves())

    def total(leaves: dict[str, Any], others: dict[str, Any], rest: dict[str, Any]) -> Any:
        loss = loss_of(like, {**others, **leaves}, rest, **more)
        return loss.value, (loss.logp, loss.logp_grad)

    graded = jax.value_and_grad(total, has_aux=True)
    graded = jax.jit(graded) if jit else graded

    def answer(problem: Problem) -> Answer:
        with precision(problem):
            parameters, rest = arguments(problem)
            leaves = {name: parameters.pop(name) for name in leaf_names}
            (value, (logp, weight)), gradients = graded(leaves, parameters, rest)
            found = {name: tensor(g) for name, g in gradients.items()}
            return Answer(tensor(value), None if logp is None else tensor(logp), tensor(weight), found)

    return answer


def ring_of(tokens: int, vocabulary: int, block: int = 5, item: int = 8) -> dict[str, int]:
    """The budget of the aligned scheme whose ring holds so many tokens, when blocks are small; four tiles."""
    blocks = -(-vocabulary // block)
    return {"budget_bytes": tokens * blocks * -(-vocabulary // blocks) * item}


@contextmanager
def small_pieces(chunk: int = 4, block: int = 5, longest: int = 2) -> Iterator[None]:
    """Tiles of `chunk` tokens and at most `block` rows of the head: tiny problems then have many, with short last ones.

    Runs have one or two tiles in place of up to eight: each length is a copy of the loop's body, to be compiled. Programs
    that JAX keeps do not know the lengths they were made with, so that others begin and end with none.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_pass, "TILE", (chunk, block))
        patch.setattr(schemes, "LEAST_RING", 1)
        patch.setattr(schemes, "TILE", (chunk, block))
        patch.setattr(schemes, "LANES", 1)
        patch.setattr(runs, "LONGEST", longest)
        if longest != 2:
            forget_programs()
        yield
    if longest != 2:
        forget_programs()


def forget_programs() -> None:
    """What the two-pass scheme compiled so far."""
    for program in (two_pass._scores, two_pass._sorted_gradients):
        program.clear_cache()


def largest_array(f: Any, *args: Any) -> int:
    """Entries of the largest array in the program, inner programs included."""

    def inside(jaxpr: Any) -> int:
        own = [v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "size")]
        inner = [p for eqn in jaxpr.eqns for p in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns"))]
        inner = [getattr(p, "jaxpr", p) for p in inner]
        return max([*own, *(inside(p) for p in inner if hasattr(p, "eqns"))], default=0)

    return inside(jax.make_jaxpr(f)(*args).jaxpr)
