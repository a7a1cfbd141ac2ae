"""The contract of Tunix's repository, a sum and a denominator: an optimizer step's loss is that of its micro-batches in one.

The two classes are a stand-in. `test_repository.py` is about the repository itself, where a checkout is at hand.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gspo_jax.trainers import tunix as adapter
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.paper import paper
from support.trainers.tunix_batches import Rows, packed, padded, registered, rows, saying_nothing, value_and_grad
from support.trainers.tunix_deferred import LossOutput, Step, its_contract, step
from tunix.rl import algo_core, common

from gspo_core import GSPO, GSPO_TOKEN, Objective
from gspo_core.objectives import DAPO, PRESETS

ASKED = {
    *("kl", "pg_clipfrac", "sampler_is/weight_mean", "sampler_is/weight_min"),
    *("entropy", "reduced_pg_loss", "unreduced_pg_loss", "ppo_kl", "kl_loss", "log_ratio/abs_mean"),
    *(f"is_ratio/{x}" for x in ("mean", "max", "min")),
    *(f"pg_loss/{x}_mean" for x in ("unclipped", "clipped")),
    *(f"advantage/{x}" for x in ("abs_mean", "max", "min", "nonzero_frac")),
}
"""What the repository's learners ask of aux, in August 2026."""


def parts(whole: Rows) -> list[Rows]:
    """Micro-batches of three responses and of one."""
    return [Rows(*(x[a:b] for x in whole)) for a, b in ((0, 3), (3, 4))]


def rows_of(name: str, whole: Rows, beta: float = 0.0, log: bool = True) -> Step:
    """A step on rows, in two micro-batches."""
    pieces = parts(whole)
    examples = [padded(x, ref_per_token_logps=jnp.asarray(x.reference) if beta else None) for x in pieces]
    return step(name, [(x.logp, y) for x, y in zip(pieces, examples, strict=True)], saying_nothing(beta=beta), log)


def in_one(name: str, whole: Rows, beta: float) -> Step:
    """The same responses in one micro-batch."""
    example = padded(whole, ref_per_token_logps=jnp.asarray(whole.reference))
    return step(name, [(whole.logp, example)], saying_nothing(beta=beta))


LENGTHS = st.permutations([6, 1, 3, 0]) | st.permutations([6, 6, 2, 1])


@pytest.mark.parametrize("preset", PRESETS)
@given(seed=st.integers(0, 1000), lengths=LENGTHS)
def test_micro_batches_of_any_lengths_are_the_paper_s_batch(preset: str, seed: int, lengths: list[int]) -> None:
    """Value and gradient, an empty micro-batch included, against scalar loops over the whole batch."""
    whole = rows(seed, tuple(lengths))
    found = rows_of(f"gspo_core_{preset.lower()}", whole, log=False)
    exact = paper(preset, *whole[:2], whole.advantage, whole.mask)
    scale = 1.0 + abs(exact.value)
    assert abs(found.loss - exact.value) <= 2e-6 * scale
    assert np.abs(np.concatenate(found.gradients) - exact.grad).max() <= 2e-6 * scale


def test_the_release_has_another_value_there() -> None:
    """So the test above could fail: three responses in a micro-batch and one in the other have a mean of means."""
    whole, name = rows(0, (6, 1, 3, 2)), "gspo_core_gspo"
    means = [value_and_grad(name, x.logp, padded(x), saying_nothing())[0] for x in parts(whole)]
    assert abs(np.mean(means) - rows_of(name, whole).loss) > 0.1


@pytest.mark.parametrize(
    "objective", [GSPO.with_clip(0.1, 0.1), GSPO_TOKEN.with_clip(0.1, 0.1), DAPO], ids=["GSPO", "GSPO-token", "DAPO"]
)
def test_packs_of_different_numbers_of_responses(objective: Objective) -> None:
    """One of three responses and one of one are the rows: value, gradient, KL term."""
    whole, name = rows(1, (6, 1, 3, 2)), registered(objective)
    packs = [packed(whole, (chosen,), 16, reference=True) for chosen in ((0, 2, 1), (3,))]
    found = step(name, [(pack.logp, pack.example) for pack in packs], saying_nothing(beta=0.3))
    alone = in_one(name, whole, beta=0.3)
    assert abs(found.loss - alone.loss) <= 2e-6
    (of_rows,) = alone.gradients
    order = np.concatenate([of_rows[i][whole.mask[i]] for i in (0, 2, 1, 3)])
    assert np.abs(np.concatenate([x[p.mask] for x, p in zip(found.gradients, packs, strict=True)]) - order).max() <= 2e-6
    assert np.abs(order).max() > 1e-2


def test_a_kl_term_has_the_denominator_of_the_loss() -> None:
    """In two parts as in one."""
    whole, name = rows(3, (6, 1, 3, 2)), registered(GSPO)
    one = in_one(name, whole, beta=0.5)
    two = rows_of(name, whole, beta=0.5)
    assert abs(one.loss - two.loss) <= 1e-6
    assert np.abs(one.gradients[0] - np.concatenate(two.gradients)).max() <= 1e-6
    assert abs(one.loss - rows_of(name, whole).loss) > 1e-2


def test_what_is_logged_is_of_all_responses() -> None:
    """Everything that is a mean over tokens or responses, and ours; the rest are Tunix's means of extremes."""
    whole, name = rows(5, (6, 1, 3, 2)), registered(GSPO_TOKEN.with_clip(0.03, 0.03))
    one, two = in_one(name, whole, beta=0.5).logged, rows_of(name, whole, beta=0.5).logged
    assert set(one) >= ASKED | set(adapter.LOGGED)
    assert 0 < one["gspo/clip_active"] < 1
    of_parts = {"pg_loss", "reduced_pg_loss", *(x for x in one if x.endswith(("/max", "/min", "_min")))}
    for key in set(one) - of_parts:
        assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6, nan_ok=True), key


def test_nothing_is_logged_that_a_mean_cannot_take_twice() -> None:
    """The repository's trainer keeps every number of aux, and once more those that it was asked for."""
    (one,) = [padded(rows(0))]
    single = step("gspo_core_gspo", [(rows(0).logp, one)], saying_nothing()).logged
    twice = step("gspo_core_gspo", [(rows(0).logp, one)] * 2, saying_nothing()).logged
    assert twice == pytest.approx(single, rel=1e-6, nan_ok=True)


def test_what_the_repository_passes_reaches_its_log_probs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a chunk of the head, and entropies in place of logits."""
    batch = rows(0)
    asked = {}

    def scored(*args: object, **kwargs: object) -> tuple[jax.Array, jax.Array]:
        asked.update(kwargs, parts=args)
        return jnp.asarray(batch.logp), jnp.full(batch.mask.shape, 0.5)

    monkeypatch.setattr(common, "compute_per_token_logps", scored)
    monkeypatch.setattr(algo_core.nnx, "split", lambda _: ("graph", "state"))
    with its_contract(), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = jax.jit(lambda x: adapter.tunix_loss(GSPO, None, x, saying_nothing(), 0, 1, 64))(padded(batch))
    assert isinstance(found, LossOutput)
    assert asked["chunk_size"] == 64
    assert asked["return_entropy"] is True
    assert "return_logits" not in asked
    entropy = found.aux_metrics["entropy"]
    assert float(entropy.unreduced_sum / entropy.denominator) == 0.5


def test_a_batch_without_a_token_adds_nothing() -> None:
    batch = rows(0, (0, 2))
    empty = dataclasses.replace(padded(batch), completion_mask=jnp.zeros(batch.mask.shape, dtype=bool))
    found = step("gspo_core_gspo", [(batch.logp, padded(batch)), (batch.logp, empty)], saying_nothing())
    alone = step("gspo_core_gspo", [(batch.logp, padded(batch))], saying_nothing())
    assert found.loss == alone.loss
    assert np.array_equal(found.gradients[0], alone.gradients[0])
    assert not found.gradients[1].any()
