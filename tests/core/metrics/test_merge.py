"""Metrics of parts, merged in any order, are the metrics of the whole; what was not measured stays out of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import REL64, assert_same_bits, assert_within
from support.cases import Batch, batches
from support.family import MEMBERS, largest
from support.inputs.metric_cases import assert_numbers, judged, measured, vectors
from support.libraries import NUMPY, Library
from support.oracles import advice as oracle_advice
from support.oracles import metrics as oracle_metrics
from support.oracles import sampler as oracle_sampler

from gspo_core import GSPO, TIS, Padded, batch_metrics, group_advantages, group_metrics, merge, policy_loss, summary
from gspo_core.metrics import Metrics, sampler_metrics
from gspo_core.mismatch import GEO_RS, ICEPOP, MIS, Correction, GeometricWeight, ProductWeight, Reject, TokenWeight, Truncate

THREE = [member for member in MEMBERS if member.name in ("GSPO", "GRPO", "DAPO")]
CORRECTIONS = {
    "TIS": TIS,
    "MIS": MIS,
    "ICEPOP": ICEPOP,
    "GEO_RS": GEO_RS,
    "product": Correction(ProductWeight(), Truncate(2.0, 0.5)),
    "geometric": Correction(GeometricWeight(), Truncate(1.1)),
    "filter": Correction(TokenWeight(), Reject(0.5, 2.0, drop=True)),
}


def random_batch(rng: np.random.Generator) -> Batch:
    """Six ragged rows, none of which need have a token."""
    mask = rng.random((6, 4)) < 0.7
    return Batch(rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), mask, rng.normal(size=6), np.zeros((6, 4)), 0, 0)


def assert_equal_metrics(a: Metrics, b: Metrics, scale: float) -> None:
    """Counts and extremes to the bit, sums within rounding."""
    for name in ("counts", "minima", "maxima"):
        assert_same_bits(getattr(a, name), getattr(b, name))
    assert_within(a.sums, b.sums, REL64 * np.maximum(scale, np.abs(b.sums)))


@given(batch=batches(edges=False), parts=st.lists(st.integers(0, 3), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_merged_parts_are_the_whole(library: Library, batch: Batch, parts: list[int], seed: int) -> None:
    """Any partition, empty parts and parts of empty rows included, in any order."""
    member = THREE[seed % len(THREE)]
    assume(member.is_clear_of_kinks(batch, batch.advantage, 1e-9))
    total = float(member.objective.count(Padded(batch.mask))) or 1.0
    belongs = np.array(parts[: len(batch.mask)])
    order = np.random.default_rng(seed).permutation(4)
    pieces = [batch.rows(belongs == part) for part in order]
    metrics = [measured(library, member.objective, piece, piece.advantage, total) for piece in pieces]
    numbers, loss_scale = judged(member, batch, batch.advantage)
    found = summary(merge(*metrics))
    if "batches" in numbers:
        full = [piece for piece in pieces if piece.mask.any()]
        numbers["batches"] = float(len(full))
        # Each was divided by the whole batch's denominator: their losses add up to the loss that was trained.
        if any(float(member.objective.count(Padded(piece.mask))) != total for piece in full):
            numbers["loss_trained"] = numbers["loss"]
    assert_numbers(found, numbers, largest(batch), loss_scale)


def test_a_zero_has_no_sign() -> None:
    """Log-probs of −0 and +0: whichever comes first, the merged extremes are the same bits."""
    parts = []
    for zero in (-0.0, 0.0):
        batch = (np.array([[zero]]), np.array([[zero]]), np.array([1.0]), Padded(np.array([[True]])))
        parts.append(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch))
    for name in ("minima", "maxima"):
        assert_same_bits(getattr(merge(*parts), name), getattr(merge(*parts[::-1]), name))
        assert not np.signbit(getattr(merge(*parts), name)[np.abs(getattr(merge(*parts), name)) == 0]).any()


@pytest.mark.slow
@given(
    numbers=st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 2.0, math.inf, math.nan]), min_size=3, max_size=3),
    order=st.permutations(range(3)),
)
def test_extremes_merge_alike_in_any_order_and_keep_a_nan(library: Library, numbers: list[float], order: list[int]) -> None:
    one = group_metrics(*(library.array(x) for x in (np.array([1.0, -1.0]), np.array([3, 3]))))
    parts = [one._replace(minima=library.array(np.full(3, x)), maxima=library.array(np.full(3, x))) for x in numbers]
    a, b, c = (parts[k] for k in order)
    for merged in (merge(a, b, c), merge(a, merge(b, c))):
        for vector, extreme in ((merged.minima, min), (merged.maxima, max)):
            expected = math.nan if any(math.isnan(x) for x in numbers) else extreme(numbers)
            np.testing.assert_array_equal(library.numpy(vector), np.full(3, expected))


@given(a=batches(), b=batches(), c=batches())
def test_merging_is_associative_and_commutative_and_an_empty_batch_is_neutral(a: Batch, b: Batch, c: Batch) -> None:
    x, y, z = (measured(NUMPY, GSPO, batch, batch.advantage) for batch in (a, b, c))
    scale = max(float(np.abs(m.sums).max()) for m in (x, y, z))
    assert_equal_metrics(merge(merge(x, y), z), merge(x, merge(y, z)), scale)
    for left, right in zip(merge(x, y), merge(y, x), strict=True):
        assert_same_bits(left, right)
    nothing = measured(NUMPY, GSPO, a.rows(slice(0, 0)), a.advantage[:0])
    for left, right in zip(merge(x, nothing), x, strict=True):
        assert (left == right).all()


@pytest.mark.parametrize("number", range(1, 6))
def test_merging_many_is_merging_two_from_the_left(library: Library, number: int) -> None:
    rng = np.random.default_rng(number)
    parts = [measured(library, GSPO, batch, batch.advantage) for batch in (random_batch(rng) for _ in range(number))]
    expected = parts[0]
    for part in parts[1:]:
        expected = merge(expected, part)
    for left, right in zip(merge(*parts), expected, strict=True):
        assert_same_bits(library.numpy(left), library.numpy(right))


@pytest.mark.slow
def test_merging_many_runs_under_jit() -> None:
    jax = pytest.importorskip("jax")
    parts = [group_metrics(jax.numpy.asarray(a), jax.numpy.asarray([1, 1])) for a in ([1.0, -1.0], [0.0, 0.0], [2.0, 0.0])]
    for left, right in zip(jax.jit(merge)(*parts), merge(*parts), strict=True):
        assert_same_bits(np.asarray(left), np.asarray(right))


def test_merging_nothing_is_refused_and_so_is_a_list() -> None:
    with pytest.raises(TypeError, match=r"^metrics: expected at least one Metrics, got none; write merge\(\*parts\)"):
        merge()
    with pytest.raises(TypeError, match=r"^metrics: expected Metrics, got list; write merge\(\*parts\)"):
        merge([group_metrics(np.ones(2), np.zeros(2, dtype=int))])  # type: ignore[arg-type]  # wrong on purpose


def test_over_ranks_one_all_reduce_per_vector_is_enough() -> None:
    """What `merge` does to each vector is the all-reduce of one kind."""
    batch = random_batch(np.random.default_rng(0))
    ranks = [measured(NUMPY, GSPO, batch.rows(slice(2 * k, 2 * k + 2)), batch.advantage[2 * k : 2 * k + 2]) for k in range(3)]
    counts, sums, minima, maxima = (np.stack(x) for x in zip(*ranks, strict=True))
    reduced = Metrics(counts.sum(axis=0), sums.sum(axis=0), minima.min(axis=0), maxima.max(axis=0))
    assert_equal_metrics(reduced, merge(*ranks), float(np.abs(sums).max()))


def oracle_mass_gap(rows: oracle_advice.Rows) -> dict[str, float]:
    """The mass gap and its standard error, which needs two responses."""
    gap, error = oracle_advice.mass_gap(rows)
    two = sum(bool(row) for row in rows) > 1
    return {"sampler_mass_gap": gap} | ({"sampler_mass_gap_error": error} if two else {})


def sampler_oracle(correction: Correction, old: list, sampler: list, mask: list) -> dict[str, float]:
    """Raw and bounded weights of everything that has one, in scalar loops."""
    action, per_token = correction.action, isinstance(correction.level, TokenWeight)
    if per_token:
        table = oracle_sampler.token_weights(old, sampler, mask)
        raw = [table[i][t] for i, row in enumerate(mask) for t, there in enumerate(row) if there]
    else:
        by_row = oracle_sampler.sequence_weights(old, sampler, mask, isinstance(correction.level, GeometricWeight))
        raw = [w for w, row in zip(by_row, mask, strict=True) if any(row)]
    if not raw:
        return {}
    judge = {Truncate: oracle_sampler.truncated, Reject: oracle_sampler.filtered}.get(type(action), oracle_sampler.masked)
    weights = [judge(w, action.low, action.high) for w in raw]  # type: ignore[attr-defined]  # the action has bounds
    outside = [not action.low <= w <= action.high for w in raw]  # type: ignore[attr-defined]  # the action has bounds
    cut = isinstance(action, Truncate)
    rows = [[old[i][t] - sampler[i][t] for t, there in enumerate(row) if there] for i, row in enumerate(mask)]
    return (
        oracle_metrics.log_probs(old, sampler, mask, "sampler_")
        | {
            "sampler_sequences": float(sum(any(row) for row in mask)),
            "sampler_tokens": float(sum(sum(row) for row in mask)),
            "sampler_raw_mean": oracle_metrics.mean(raw),
            "sampler_raw_max": max(raw),
            "sampler_weight_mean": oracle_metrics.mean(weights),
            "sampler_weight_max": max(weights),
            "sampler_truncated": oracle_metrics.mean(outside) if cut else 0.0,
            "sampler_rejected": 0.0 if cut else oracle_metrics.mean(outside),
            **oracle_mass_gap(rows),
            **({"sampler_ess": sum(weights) ** 2 / len(weights) / sum(w * w for w in weights)} if any(weights) else {}),
        }
        | oracle_metrics.log_ratios(old, sampler, mask, "sampler_log_s", "sampler_")
    )


@pytest.mark.parametrize("name", CORRECTIONS)
@given(batch=batches(edges=False), parts=st.lists(st.booleans(), min_size=8, max_size=8))
def test_sampler_metrics_are_the_oracles_in_whole_and_in_parts(name: str, batch: Batch, parts: list[bool]) -> None:
    correction = CORRECTIONS[name]
    numbers = sampler_oracle(correction, batch.logp.tolist(), batch.old_logp.tolist(), batch.mask.tolist())
    # A weight on a bound within rounding may be judged either way.
    d = np.where(batch.mask, batch.clean().logp - batch.clean().old_logp, 0.0)
    log_weights = np.concatenate([d.ravel(), d.sum(axis=1), d.sum(axis=1) / np.maximum(1, batch.mask.sum(axis=1))])
    bounds = [b for b in (correction.action.low, correction.action.high) if 0 < b < np.inf]  # type: ignore[attr-defined]  # the action has bounds
    assume(np.min(np.abs(log_weights[:, None] - np.log(bounds)[None, :]), initial=np.inf) > 1e-9)
    assume(np.abs(log_weights).max(initial=0.0) < 50)
    belongs = np.array(parts[: len(batch.mask)])

    def of(x: Batch) -> Metrics:
        return sampler_metrics(correction, x.logp, x.old_logp, Padded(x.mask))

    for metrics in (of(batch), merge(of(batch.rows(belongs)), of(batch.rows(~belongs)))):
        assert_numbers(summary(metrics), numbers, largest(batch))


@pytest.mark.parametrize("correction", [TIS, MIS, GEO_RS], ids=["TIS", "MIS", "GEO_RS"])
def test_sampler_metrics_on_every_library(library: Library, correction: Correction) -> None:
    rng = np.random.default_rng(3)
    old, mask = rng.normal(size=(5, 6)), rng.random((5, 6)) < 0.6
    sampler = old + 0.3 * rng.normal(size=(5, 6))
    poisoned = [library.array(np.where(mask, x, np.nan)) for x in (old, sampler)]
    metrics = sampler_metrics(correction, *poisoned, Padded(library.array(mask)))
    assert not any(np.isnan(x).any() for x in vectors(metrics, library))
    assert_numbers(summary(metrics), sampler_oracle(correction, old.tolist(), sampler.tolist(), mask.tolist()), 2.0)


def test_a_gap_of_three_ten_thousandths_per_token_shows_raw_and_truncated() -> None:
    """−2.8 nats over 9000 tokens: the product is e^−2.8 = 0.06, its 9000th root 0.9997."""
    old, mask = np.full((1, 9000), -2.8 / 9000), np.ones((1, 9000), dtype=bool)
    levels = {"product": (ProductWeight(), 0.0608), "geometric": (GeometricWeight(), 0.99969)}
    for level, expected in levels.values():
        numbers = summary(sampler_metrics(Correction(level, Truncate(2.0, 0.5)), old, np.zeros_like(old), Padded(mask)))
        assert_within(numbers["sampler_raw_mean"], expected, 1e-4)
        assert_within(numbers["sampler_weight_mean"], max(expected, 0.5), 1e-4)
        assert numbers["sampler_truncated"] == (expected < 0.5)
        assert_within(numbers["sampler_mass_gap"], -2.8 / 9000, 1e-6)


def test_the_effective_sample_size_of_huge_weights_is_finite_and_counts_none_above_e20() -> None:
    """Float32 weights of e⁰, e¹⁸ and e⁵⁰, whose squares overflow, measured in two parts."""
    gap = np.array([[0.0], [18.0], [50.0]], dtype=np.float32)
    unbounded = Correction(ProductWeight(), Truncate(1e30))
    parts = [sampler_metrics(unbounded, x, np.zeros_like(x), Padded(np.full(x.shape, True))) for x in (gap[:2], gap[2:])]
    weights = [1.0, math.exp(18), math.exp(20)]
    expected = sum(weights) ** 2 / 3 / sum(w * w for w in weights)
    assert summary(merge(*parts))["sampler_ess"] == pytest.approx(expected, rel=1e-5)


def test_without_any_weight_there_is_no_effective_sample_size() -> None:
    """MIS rejects every response."""
    old, layout = np.full((2, 1), 3.0), Padded(np.full((2, 1), True))
    numbers = summary(sampler_metrics(MIS, old, np.zeros_like(old), layout))
    assert numbers["sampler_rejected"] == 1.0
    assert "sampler_ess" not in numbers


@given(
    rewards=st.lists(st.sampled_from([0.0, 1.0]), min_size=0, max_size=12),
    ids=st.lists(st.integers(-3, 3), min_size=12, max_size=12),
)
def test_groups_are_counted_as_sets_do(library: Library, rewards: list[float], ids: list[int]) -> None:
    groups = np.array(ids[: len(rewards)], dtype=np.int64)
    advantage = np.asarray(group_advantages(np.array(rewards), groups))
    numbers = summary(group_metrics(library.array(advantage), library.array(groups)))
    if not rewards:
        assert numbers == {}
        return
    members = [[r for r, g in zip(rewards, groups, strict=True) if g == group] for group in set(groups.tolist())]
    single, equal = (sum(test(of) for of in members) for test in (lambda of: len(of) == 1, lambda of: len(set(of)) == 1))
    assert numbers == {
        "groups": float(len(members)),
        "constant_groups": (equal - single) / len(members),
        "single_groups": single / len(members),
        "group_size": len(rewards) / len(members),
    }


@pytest.mark.parametrize(
    ("advantage", "ids", "error", "message"),
    [
        (np.ones(3, dtype=int), np.ones(3, dtype=int), TypeError, "advantage"),
        (np.ones(3), np.ones(3), TypeError, "group_ids"),
        (np.ones((3, 1)), np.ones(3, dtype=int), ValueError, "advantage"),
        (np.ones(3), np.ones(4, dtype=int), ValueError, "group_ids"),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    advantage: np.ndarray, ids: np.ndarray, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        group_metrics(advantage, ids)


def test_kinds_of_metrics_add_up_to_one_book() -> None:
    """Batch, sampler and groups: each says only what it measured, together everything."""
    zero, mask, advantage = np.zeros((2, 3)), np.ones((2, 3), dtype=bool), np.array([1.0, -1.0])
    batch = measured(NUMPY, GSPO, Batch(zero, zero, mask, advantage, zero, 0, 0), advantage)
    sampler = sampler_metrics(TIS, zero, zero, Padded(mask))
    groups = group_metrics(advantage, np.array([1, 1]))
    parts = [summary(x) for x in (batch, sampler, groups)]
    assert all(not a.keys() & b.keys() for a in parts for b in parts if a is not b)
    assert summary(merge(batch, sampler, groups)) == parts[2] | parts[0] | parts[1]
    assert policy_loss(GSPO, zero, zero, advantage, Padded(mask)).value == parts[0]["loss"] == 0.0
