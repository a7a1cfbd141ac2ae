"""The core under JAX's transforms: jit, vmap, grad, psum; strict promotion throughout, float64 off unless said otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.budgets import assert_within, float32_budget
from support.cases import Batch, core_loss
from support.family import PRESETS, Member, by_member
from support.inputs.one_shape import EXAMPLES, N, T
from support.libraries import JAX, NUMPY

import gspo_core
from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    Clip,
    Objective,
    Packed,
    Padded,
    PerToken,
    Sequence,
    SequenceMean,
    policy_loss,
    sharded,
)

BATCH = EXAMPLES["holes"]
SEGMENTS = np.where(BATCH.mask, np.arange(N)[:, None], -1).reshape(-1)


def arrays(batch: Batch, dtype: Any = np.float32) -> tuple[Any, ...]:
    """(logp, old_logp, advantage, mask), on JAX."""
    return (*(jnp.asarray(x.astype(dtype)) for x in (batch.logp, batch.old_logp, batch.advantage)), jnp.asarray(batch.mask))


def value(objective: Objective, logp: Any, old: Any, advantage: Any, mask: Any) -> Any:
    """The loss; the layout is made inside of what is traced."""
    return policy_loss(objective, logp, old, advantage, Padded(mask)).value


def test_promotion_is_strict_and_float64_is_off() -> None:
    """The guard of every other test here."""
    assert jnp.asarray(np.zeros(1)).dtype == jnp.float32
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.zeros(1, dtype=jnp.int32) + jnp.zeros(1, dtype=jnp.float32)
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((2, 3)) + jnp.zeros(3)


# ---- jit


def test_one_compilation_for_all_batches_of_a_shape_and_all_equal_objectives() -> None:
    """An objective is a value: built again it is the same static argument, with another number it is another one."""
    traced = []

    def counted(objective: Objective, *inputs: Any) -> Any:
        traced.append(objective)
        return value(objective, *inputs)

    f = jax.jit(counted, static_argnums=0)
    for batch in EXAMPLES.values():
        for objective in (GSPO, Objective(Sequence(), Clip(3e-4, 4e-4), SequenceMean())):
            f(objective, *arrays(batch))
    assert traced == [GSPO]
    f(GSPO.with_clip(0.2, 0.2), *arrays(BATCH))
    assert len(traced) == 2


@pytest.mark.slow
def test_a_layout_may_be_closed_over_and_made_inside_but_is_no_argument() -> None:
    """The core does not know JAX and registers no pytree: gspo_jax does."""
    logp, old, advantage, mask = arrays(BATCH)
    layout = Padded(mask)
    closed = jax.jit(lambda x: policy_loss(GRPO, x, old, advantage, layout).value)(logp)
    inside = jax.jit(lambda x, m: policy_loss(GRPO, x, old, advantage, Padded(m)).value)(logp, mask)
    assert_within(closed, inside, float32_budget(N * T, 1.4))
    program = (
        "import jax; from gspo_core import Padded; layout = Padded(jax.numpy.ones((1, 2)) > 0)\n"
        "try: jax.jit(lambda where: where.mask)(layout)\n"
        "except TypeError as error: print(error)"
    )  # without gspo_jax, which another test may have imported
    root = Path(gspo_core.__file__).parent.parent
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "Padded" in said


def test_a_traced_denominator() -> None:
    logp, old, advantage, mask = arrays(BATCH)
    f = jax.jit(lambda n: policy_loss(GSPO, logp, old, advantage, Padded(mask), denominator=n).value)
    for n in (2, 16):
        expected = core_loss(NUMPY, GSPO, BATCH, denominator=n, dtype=np.float32).value
        assert_within(f(jnp.asarray(n)), expected, float32_budget(N, 1.4))


# From (logp, advantage, mask) to (logp, advantage, layout), something in it wrong.
REFUSED: list[tuple[type[Exception], str, Callable[..., Any]]] = [
    (TypeError, "^logp: expected float32 .* got bfloat16", lambda x, a, m: (x.astype(jnp.bfloat16), a, Padded(m))),
    (ValueError, "^logp: expected the layout's shape", lambda x, a, m: (x[:, 1:], a, Padded(m))),
    (ValueError, r"^advantage: expected \[8\]", lambda x, a, m: (x, a[1:], Padded(m))),
    (ValueError, r"Use SequenceToken\(\)", lambda x, _, m: (x, PerToken(x), Padded(m))),
    (TypeError, "^mask: expected a boolean array", lambda x, a, _: (x, a, Padded(x))),
]


@pytest.mark.parametrize(("kind", "sentence", "make"), REFUSED, ids=["bfloat16", "tokens", "sequences", "per token", "mask"])
def test_contracts_hold_while_tracing(kind: type[Exception], sentence: str, make: Callable[..., Any]) -> None:
    logp, _, advantage, mask = arrays(BATCH)

    def f(*inputs: Any) -> Any:
        wrong, given, layout = make(*inputs)
        return policy_loss(GSPO, wrong, wrong, given, layout).value

    with pytest.raises(kind, match=sentence):
        jax.jit(f)(logp, advantage, mask)


@pytest.mark.parametrize("name", PRESETS)
def test_float32_stays_float32_where_float64_is_on(name: str) -> None:
    """No constant and no count widens the loss."""
    with jax.enable_x64(True):
        loss = jax.eval_shape(lambda *x: policy_loss(PRESETS[name], *x[:3], Padded(x[3]))[:-1], *arrays(BATCH))
    assert [x.dtype for x in loss] == [*[np.float32] * 3, np.bool_, np.float32]


# ---- grad


def autodiff(objective: Objective) -> np.ndarray:
    """∂value/∂logp by JAX, in float64."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.grad(value, argnums=1), static_argnums=0)(objective, *arrays(BATCH, np.float64)))


@by_member
def test_the_core_is_a_constant_to_jax(member: Member) -> None:
    """Its value has no derivative, which would be another one than the weight for many objectives; gspo_jax has it."""
    assert np.any(core_loss(NUMPY, member.objective, BATCH).logp_grad)
    assert not autodiff(member.objective).any()


# ---- vmap


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN, PRESETS["DEEPSEEK_V3_2"]], ids=["GSPO", "GSPO_TOKEN", "DEEPSEEK_V3_2"])
def test_mapped_losses_are_single_losses(objective: Objective) -> None:
    many = [arrays(batch) for batch in EXAMPLES.values()]
    stacked = map(jnp.stack, zip(*many, strict=True))
    mapped = jax.jit(jax.vmap(lambda *x: policy_loss(objective, *x[:3], Padded(x[3]))[:-1]))(*stacked)
    for k, batch in enumerate(EXAMPLES.values()):
        single = core_loss(NUMPY, objective, batch, dtype=np.float32)
        assert_within(mapped[0][k], single.value, float32_budget(N * T, 1.4) * np.abs(batch.clean().advantage).max())
        assert_within(mapped[1][k], single.logp_grad, float32_budget(N * T, 1.4) * np.abs(single.logp_grad))


@pytest.mark.slow
def test_a_packed_loss_is_mapped_over_log_probs() -> None:
    _, old, advantage, _ = arrays(BATCH)
    layout = Packed(jnp.asarray(SEGMENTS), N)
    moved = jnp.asarray(np.stack([BATCH.clean().logp.reshape(-1) + shift for shift in (0.0, 1e-4)]).astype(np.float32))

    def weight(x: Any) -> Any:
        return policy_loss(GSPO, x, old.reshape(-1), advantage, layout).logp_grad

    single = jax.jit(weight)
    for got, x in zip(jax.jit(jax.vmap(weight))(moved), moved, strict=True):
        expected = single(x)
        assert_within(got, expected, float32_budget(N * T, 1.4) * np.abs(np.asarray(expected)))


# ---- ranks


@pytest.mark.parametrize("name", ["GSPO", "GRPO", "FSPO", "DEEPSEEK_V3_2", "DPPO"])
def test_psum_over_a_named_axis_is_the_sum_over_shards(name: str) -> None:
    """The token axis cut in two, the collective JAX's own."""
    half = T // 2
    logp, old, advantage, mask = arrays(BATCH)
    columns = [jnp.stack([x[:, :half], x[:, half:]]) for x in (logp, old, mask)]

    def one_rank(logp: Any, old: Any, mask: Any) -> tuple[Any, ...]:
        layout = sharded(Padded(mask), lambda x: jax.lax.psum(x, "ranks"))
        return policy_loss(PRESETS[name], logp, old, advantage, layout)[:2]

    values, weights = jax.jit(jax.vmap(one_rank, axis_name="ranks"))(*columns)
    whole = core_loss(NUMPY, PRESETS[name], BATCH, dtype=np.float32)
    assert_within(values, [whole.value] * 2, float32_budget(N * T, 1.4) * 2)
    assert_within(np.concatenate(list(weights), axis=1), whole.logp_grad, float32_budget(N * T, 1.4) * np.abs(whole.logp_grad))


# ---- what is JAX's own


def test_jax_takes_denormal_numbers_for_zero() -> None:
    """docs/libraries.md: XLA flushes them on a CPU, so a log ratio below 1e-38 is exactly on policy."""
    tiny = np.nextafter(np.float32(0), np.float32(1))
    batch = Batch(np.array([[0.0]]), np.array([[-float(tiny)]]), np.array([[True]]), np.ones(1), np.ones((1, 1)), 0.0, 0.0)
    objective = GSPO.with_clip(0.0, 0.0)
    clipped = [bool(core_loss(library, objective, batch, dtype=np.float32).clipped[0]) for library in (NUMPY, JAX)]
    assert clipped == [True, False]
