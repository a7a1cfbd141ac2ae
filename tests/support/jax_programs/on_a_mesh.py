"""Claims about a 2 × 2 × 2 mesh, data × context × tensor: hidden states and a sharded head to value and both gradients.

Run by on_eight_devices.py. Every program is compiled once and used for every way in which shards may be uneven or empty.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.jax_programs import mesh_cases
from support.jax_programs.mesh_cases import BETA, BONUS, BY_NAME, LENGTHS, ROWS, TURNS, VOCABULARY, Answer, Case, N

from gspo_core import Packed, Padded, PerToken, Turns, sharded
from gspo_core.kl import K3, KLTerm
from gspo_core.layouts import Layout

AXES = ("data", "context", "tensor")


def mesh_of(kind: AxisType) -> Any:
    """Eight devices."""
    return jax.make_mesh((2, 2, 2), AXES, axis_types=(kind,) * 3)


MESH = mesh_of(AxisType.Auto)


def slots_of(case: Case, mask: Any) -> Any:
    """Where a padded batch's slots stand: as they are, or each data rank's tokens first and its padding last."""
    if not case.packed:
        return np.arange(mask.size).reshape(mask.shape)
    halves = np.split(np.arange(mask.size), 2)
    return np.concatenate([half[np.argsort(~mask.reshape(-1)[half], kind="stable")] for half in halves])


def arguments(case: Case, b: mesh_cases.Batch) -> tuple[Any, ...]:
    """hidden, lm_head, tokens, old_logp, advantage, layout arrays, and the count of the whole batch."""
    slots = slots_of(case, b.mask)

    def placed(x: Any) -> Any:
        return jnp.asarray(x.reshape(-1, *x.shape[2:])[slots])

    where = b.mask
    if case.packed:  # numbers of sequences as a data rank has them
        where = np.where(b.mask, np.arange(N)[:, None] % (N // 2), -1).astype(np.int32)
    advantage = placed(b.advantage) if case.per_token else jnp.asarray(b.advantage)
    count = case.objective.count(Turns(Padded(b.mask), b.turn_ids, TURNS) if case.turns else Padded(b.mask))
    n = jnp.asarray(max(1, int(count)), dtype=advantage.dtype)
    arrays = (placed(b.hidden), jnp.asarray(b.lm_head), placed(b.tokens), placed(b.old_logp))
    return (*arrays, advantage, placed(where), placed(b.turn_ids), n)


def specs(case: Case) -> tuple[Any, ...]:
    """Over which axes the arguments are spread."""
    tokens = P(("data", "context")) if case.packed else P("data", "context")
    return (tokens, P("tensor"), tokens, tokens, tokens if case.per_token else P("data"), tokens, tokens, P())


def layout_of(case: Case, where: Any, turn_ids: Any, num: int) -> Layout:
    """What the arrays say."""
    layout: Layout = Packed(where, num) if case.packed else Padded(where)
    return Turns(layout, turn_ids, TURNS) if case.turns else layout


def loss_on(case: Case, axis: Any, wrap: Callable[[Layout], Layout], num: int, *xs: Any) -> Any:
    """The value, of all or of a rank."""
    hidden, lm_head, tokens, old_logp, advantage, where, turn_ids, n = xs
    advantage = PerToken(advantage) if case.per_token else advantage
    rest = (old_logp, advantage, wrap(layout_of(case, where, turn_ids, num)))
    if case.linear:
        linear, states = gspo_jax.linear_policy_loss, (hidden, lm_head, tokens)
        terms = {"kl": KLTerm(K3(), old_logp, BETA), "entropy_bonus": BONUS} if case.terms else {}
        return linear(case.objective, *states, *rest, denominator=n, vocabulary=axis, **terms).value
    logp = gspo_jax.token_logp(hidden, lm_head, tokens, vocabulary=axis)
    return gspo_jax.policy_loss(case.objective, logp, *rest, denominator=n).value


def on_rank(case: Case, total: int = VOCABULARY) -> Callable[..., Any]:
    """A rank's loss: whole over context and tensor ranks, a summand over data ranks."""
    axis = gspo_jax.VocabularyAxis("tensor", total)
    return partial(loss_on, case, axis, lambda layout: sharded(layout, lambda x: lax.psum(x, "context")), N // 2)


def on_mesh(case: Case, mesh: Any = MESH, total: int = VOCABULARY, check_vma: bool = True) -> Callable[..., Any]:
    """hidden, lm_head, … ↦ the whole loss."""

    @partial(jax.shard_map, mesh=mesh, in_specs=specs(case), out_specs=P(), check_vma=check_vma)
    def value(*xs: Any) -> Any:
        return lax.psum(on_rank(case, total)(*xs), "data")

    return value


def inside(case: Case, check_vma: bool) -> Callable[..., Any]:
    """(value, gradients taken inside of shard_map)."""

    @partial(jax.shard_map, mesh=MESH, in_specs=specs(case), out_specs=(P(), specs(case)[:2]), check_vma=check_vma)
    def both(*xs: Any) -> Any:
        value, (hidden, lm_head) = jax.value_and_grad(on_rank(case), argnums=(0, 1))(*xs)
        if not check_vma:  # nothing was added up over ranks that hold the same numbers
            hidden, lm_head = lax.psum(hidden, "tensor"), lax.psum(lm_head, ("data", "context"))
        return lax.psum(value, "data"), (hidden, lm_head)

    return both


def with_gradients(f: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled."""
    return jax.jit(jax.value_and_grad(f, argnums=(0, 1)))


def padded(case: Case, mask: Any, found: Any) -> Answer:
    """(value, gradients) with the hidden states' gradient back where the slots were."""
    value, (hidden, lm_head) = found
    back = np.zeros((mask.size, hidden.shape[-1]), dtype=hidden.dtype)
    back[slots_of(case, mask).reshape(-1)] = np.asarray(hidden).reshape(-1, hidden.shape[-1])
    return Answer(np.asarray(value), back.reshape(*mask.shape, -1), np.asarray(lm_head), None)


def equal(ours: Answer, truth: Answer, mask: Any, budgets: tuple[float, ...] = (0.0, 0.0, 0.0), eps: float = 1e-12) -> bool:
    """|ours − truth| ≤ budget + eps · the largest entry, for value and gradients; exactly 0 in masked slots."""
    pairs = zip(ours[:3], truth[:3], budgets, strict=True)
    near = (np.isfinite(a).all() and np.abs(a - b).max() <= c + eps * max(np.abs(b).max(), 1e-3) for a, b, c in pairs)
    return all(near) and not ours.hidden[~mask].any()


def holds_on(case: Case, program: Callable[..., Any], vocabulary: int = VOCABULARY, factor: float = 1.0) -> dict[str, bool]:
    """By variant: the program is one device's truth, its gradients `factor` times."""
    found = {}
    for variant in LENGTHS:
        b = mesh_cases.batch(variant, case, vocabulary)
        truth = mesh_cases.answer(case, b, vocabulary)
        truth = truth._replace(hidden=factor * truth.hidden, lm_head=factor * truth.lm_head)
        found[variant] = equal(padded(case, b.mask, program(*arguments(case, b))), truth, b.mask)
    return found


def single(case: Case, rows: int, *xs: Any) -> Any:
    """On one device, with `rows` of the head."""
    where = xs[5]
    if case.packed:  # the rank's numbers as the whole batch's
        shift = jnp.asarray((np.arange(where.size) // (where.size // 2) * (N // 2)).astype(np.int32))
        where = jnp.where(where >= 0, where + shift, -1)
    return loss_on(case, None, lambda layout: layout, N, xs[0], xs[1][:rows], *xs[2:5], where, *xs[6:])


def named_sharding(case: Case) -> dict[str, bool]:
    """Plain jit of the one-device code, its arguments spread over the mesh."""
    compiled = with_gradients(partial(single, case, ROWS))

    def program(*xs: Any) -> Any:
        return compiled(*(jax.device_put(x, NamedSharding(MESH, spec)) for x, spec in zip(xs, specs(case), strict=True)))

    return holds_on(case, program, ROWS)


def explicit(case: Case) -> dict[str, bool]:
    """shard_map on a mesh of explicit axes; arguments and gradients carry their shardings in their types."""
    mesh = mesh_of(AxisType.Explicit)
    compiled = with_gradients(on_mesh(case, mesh))

    def program(*xs: Any) -> Any:
        return compiled(*(jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(xs, specs(case), strict=True)))

    return holds_on(case, program)


def float32_within_budget(case: Case) -> bool:
    """|ours − truth| ≤ |naive − truth| + 16 roundings of the largest entry, x64 off; naive is NumPy on one device."""
    b = mesh_cases.batch("uneven", case, dtype=np.float32)
    truth, naive = mesh_cases.answer(case, b), mesh_cases.answer(case, b, dtype=np.float32)
    with jax.enable_x64(False):
        ours = padded(case, b.mask, with_gradients(on_mesh(case))(*arguments(case, b)))
    budgets = tuple(float(np.abs(a - t).max()) for a, t in zip(naive[:3], truth[:3], strict=True))
    return ours.hidden.dtype == np.float32 and equal(ours, truth, b.mask, budgets, 16 * float(np.finfo(np.float32).eps))


def second_derivatives_agree(case: Case) -> bool:
    """Forward over reverse, on the mesh and on one device."""
    b = mesh_cases.batch("uneven", case)
    xs = arguments(case, b._replace(hidden=np.where(b.mask[..., None], b.hidden, 0.0)))
    v = tuple(jnp.cos(jnp.arange(float(x.size))).reshape(x.shape) for x in xs[:2])

    def product(f: Callable[..., Any]) -> Any:
        gradient = jax.grad(lambda h, w: f(h, w, *xs[2:]), argnums=(0, 1))
        return jax.jit(lambda: jax.jvp(gradient, xs[:2], v)[1])()

    pairs = list(zip(product(on_mesh(case)), product(partial(single, case, VOCABULARY)), strict=True))
    return all(np.abs(a - b).max() <= 1e-12 * np.abs(b).max() and np.abs(b).max() > 1e-3 for a, b in pairs)


GROUPS = {"0, 1": "tensor", "0, 2": "context", "0, 4": "data", "0, 2, 4, 6": "data and context"}
"""By the ranks that rank 0 talks to."""
BYTES = {"f32": 4, "i32": 4}


def exchanged(f: Callable[..., Any], xs: tuple[Any, ...]) -> dict[str, int]:
    """Bytes of a rank by axis, as lowered; KeyError or AssertionError for any other exchange."""
    text = jax.jit(f).lower(*xs).as_text()
    assert not re.search(r"all_gather|all_to_all|reduce_scatter|collective_permute|collective_broadcast", text)
    found: dict[str, int] = {}
    for part in text.split('"stablehlo.all_reduce"')[1:]:
        group = re.search(r"replica_groups = dense<\[\[([0-9, ]+)\]", part)
        kind = re.search(r"\}\) : \(tensor<(?:([0-9x]+)x)?(\w+)>\)", part)
        assert group is not None
        assert kind is not None
        axis, size = GROUPS[group[1]], math.prod(int(k) for k in (kind[1] or "1").split("x"))
        found[axis] = found.get(axis, 0) + size * BYTES[kind[2]]
    return found


def exchanges_what_is_promised(case: Case) -> bool:
    """12 bytes per token for the vocabulary, 8 per sequence (and 8 per turn) for the context, a scalar for the data axis.

    A gradient adds its own: of the states over tensor ranks, of the head over data and context ranks. The rule of a ratio of
    whole sequences takes the log ratio again, and what it moves by. An entropy costs 4 bytes more per token, and each term 4
    more per sequence.
    """
    tokens, sequences = mesh_cases.N * mesh_cases.T // 4, N // 2
    xs = arguments(case, mesh_cases.batch("uneven", case, dtype=np.float32))
    with jax.enable_x64(False):
        value, gradient = (exchanged(f, xs) for f in (on_mesh(case), jax.value_and_grad(on_mesh(case), argnums=(0, 1))))
    context = 8 * sequences * (1 + TURNS * case.turns + case.terms)
    vocabulary = (16 if case.terms else 12) * tokens
    again = {"GSPO": 2 * 4 * sequences, "turns": 4 * sequences * TURNS, "GRPO": 0}[case.name.split()[0]]
    states, head = 4 * tokens * mesh_cases.WIDTH, 4 * ROWS // 2 * mesh_cases.WIDTH
    return value == {"tensor": vocabulary, "context": context, "data": 4} and gradient == {
        "tensor": vocabulary + states,
        "context": context + again,
        "data": 4,
        "data and context": head,
    }


def is_not_vacuous(case: Case) -> bool:
    """Some units are clipped and some are not; both data ranks, context ranks and halves of the head have a gradient."""
    b = mesh_cases.batch("uneven", case)
    truth = mesh_cases.answer(case, b)
    moved = np.abs(truth.hidden).sum(axis=-1) > 1e-6
    parts = (moved[:2], moved[2:], moved[:, :3], moved[:, 3:], truth.lm_head[:7], truth.lm_head[7:])
    return bool(truth.clipped.any() and all(part.any() for part in parts))


def claims() -> Iterator[tuple[str, bool]]:
    """Name and whether it holds: mesh_cases.CLAIMS."""
    gspo = BY_NAME["GSPO padded"]
    for case in mesh_cases.CASES:
        yield f"{case.name} is not vacuous", is_not_vacuous(case)
        yield from _each(case.name, holds_on(case, with_gradients(on_mesh(case))))
    for name in mesh_cases.NAMED_SHARDING:
        yield from _each(f"{name}, NamedSharding", named_sharding(BY_NAME[name]))
    for name in mesh_cases.UNCHECKED:
        program = with_gradients(on_mesh(BY_NAME[name], check_vma=False))
        yield from _each(f"{name}, unchecked", holds_on(BY_NAME[name], program))
    for name in mesh_cases.FLOAT32:
        yield f"{name}, float32", float32_within_budget(BY_NAME[name])
    for name in mesh_cases.SECOND:
        yield f"{name}, Hessian times a vector", second_derivatives_agree(BY_NAME[name])
    for name in mesh_cases.EXCHANGES:
        yield f"{name}, exchanges", exchanges_what_is_promised(BY_NAME[name])
    yield from _each(f"{gspo.name}, gradients inside", holds_on(gspo, jax.jit(inside(gspo, True))))
    four_times = holds_on(gspo, jax.jit(inside(gspo, False)), factor=4.0)
    yield from _each(f"{gspo.name}, gradients inside, unchecked: four times", four_times)
    yield from _each(f"{gspo.name}, explicit axes", explicit(gspo))
    yield from _each(f"{gspo.name}, no row on a tensor rank", holds_on(gspo, with_gradients(on_mesh(gspo, total=7)), 7))


def _each(name: str, by_variant: dict[str, bool]) -> Iterator[tuple[str, bool]]:
    return ((f"{name}: {variant}", holds) for variant, holds in by_variant.items())


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    for name, holds in claims():
        print("holds" if holds else "FAILS", name, flush=True)
