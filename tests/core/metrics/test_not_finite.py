"""A number that is none is counted, belongs to its own response only, and says nothing about the others."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inputs.metric_cases import on_layout, vectors
from support.libraries import NUMPY, Library
from support.oracles import metrics as oracle_metrics

from gspo_core import GRPO, GSPO, TIS, Objective, Padded, merge, sampler_weight, summary
from gspo_core.metrics import Metrics, sampler_metrics
from gspo_core.mismatch import GEO_RS, ICEPOP, MIS, Correction, ProductWeight, TokenWeight, Truncate

N, T = 6, 4
LOWEST = float(np.finfo(np.float32).min)
BROKEN = [math.nan, math.inf, -math.inf, -1e9, LOWEST]
ARRAYS = ("logp", "old_logp")
OF_OTHERS = ("log_s_", "abs_log_s", "token_std", "kl_", "ess", "design_effect", "unlikeness")
poisons = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, N - 1), st.integers(0, T - 1), st.sampled_from(BROKEN)), max_size=4
)


def arrays(seed: int, poison: list[tuple[int, int, int, float]]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """([log-probs, old ones], mask, advantages) of ragged rows, some of them above 0, with the given poison."""
    rng = np.random.default_rng(seed)
    old = -1.0 + 0.7 * rng.normal(size=(N, T))
    both, mask = [old + 0.1 * rng.normal(size=(N, T)), old], rng.random((N, T)) < 0.7
    for which, row, column, value in poison:
        both[which][row, column] = value
    return both, mask, rng.normal(size=N)


def broken_rows(both: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
    """Rows with a token that has no finite log-prob, in loops."""
    bad = [[not all(abs(x[i, t]) < 1e8 for x in both) for t in range(T) if mask[i, t]] for i in range(N)]
    return np.array([any(row) for row in bad])


def expected_counts(both: list[np.ndarray], mask: np.ndarray, prefix: str) -> dict[str, float]:
    """The oracle's counts."""
    return oracle_metrics.log_probs(*(x.tolist() for x in both), mask.tolist(), prefix)


def assert_same(numbers: dict[str, float], others: dict[str, float], prefixes: tuple[str, ...]) -> None:
    """Equal within rounding, name by name, and none is NaN."""
    names = {name for name in numbers if name.startswith(prefixes)}
    assert names == {name for name in others if name.startswith(prefixes)}
    for name in names:
        assert numbers[name] == pytest.approx(others[name], rel=1e-9, abs=1e-12), name


@given(seed=st.integers(0, 99), poison=poisons, parts=st.lists(st.integers(0, 2), min_size=N, max_size=N))
def test_a_batch_with_poison_is_counted_and_its_other_responses_are_measured(
    seed: int, poison: list[tuple[int, int, int, float]], parts: list[int]
) -> None:
    """In whole and in parts, as if the rows with poison had not been there."""
    both, mask, advantage = arrays(seed, poison)
    clean = ~broken_rows(both, mask)

    def of(rows: np.ndarray) -> Metrics:
        with np.errstate(invalid="ignore"):  # of the loss, which is NaN then
            return on_layout(GSPO, both[0][rows], both[1][rows], advantage[rows], Padded(mask[rows]))

    for metrics in (of(np.full(N, True)), merge(*(of(np.array(parts) == part) for part in range(3)))):
        numbers = summary(metrics)
        for name, value in expected_counts(both, mask, "").items():
            assert numbers.get(name, 0.0) == value, name
        assert_same(numbers, summary(of(clean)), OF_OTHERS)


@given(seed=st.integers(0, 99), poison=poisons, parts=st.lists(st.booleans(), min_size=N, max_size=N))
@pytest.mark.parametrize("correction", [TIS, MIS, GEO_RS, ICEPOP], ids=["TIS", "MIS", "GEO_RS", "ICEPOP"])
def test_a_sampler_with_poison_is_counted_and_its_other_responses_are_measured(
    correction: Correction, seed: int, poison: list[tuple[int, int, int, float]], parts: list[bool]
) -> None:
    both, mask, _ = arrays(seed, poison)
    clean, half = ~broken_rows(both, mask), np.array(parts)

    def of(rows: np.ndarray) -> Metrics:
        return sampler_metrics(correction, both[0][rows], both[1][rows], Padded(mask[rows]))

    of_the_gap = ("sampler_log_s", "abs_sampler", "sampler_token_std", "sampler_kl", "sampler_mass", "sampler_design")
    for metrics in (of(np.full(N, True)), merge(of(half), of(~half))):
        assert not any(np.isnan(x).any() for x in vectors(metrics, NUMPY))
        numbers = summary(metrics)
        assert all(math.isfinite(x) for x in numbers.values())
        for name, value in expected_counts(both, mask, "sampler_").items():
            assert numbers.get(name, 0.0) == value, name
        assert_same(numbers, summary(of(clean)), of_the_gap)


@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("objective", [GSPO, GRPO], ids=["GSPO", "GRPO"])
def test_every_library_counts_alike(library: Library, value: float, objective: Objective) -> None:
    both, mask, advantage = arrays(5, [(1, 2, 1, value), (0, 2, 1, value), (0, 4, 0, value)])
    mask[2, 1] = mask[4, 0] = True
    given_ = [library.array(x) for x in (*both, advantage)]
    with np.errstate(invalid="ignore"):
        numbers = summary(on_layout(objective, *given_, Padded(library.array(mask))))
    assert numbers["not_finite"] == 2.0
    assert all(math.isfinite(x) for name, x in numbers.items() if name.startswith(OF_OTHERS))


def test_nan_advantages_are_counted_and_the_largest_is_that_of_the_others() -> None:
    advantage = np.array([1.0, math.nan, -3.0, math.inf, 0.0, math.nan])
    mask = np.ones((6, 2), dtype=bool)
    mask[5] = False  # nobody there
    numbers = summary(on_layout(GSPO, np.zeros((6, 2)), np.zeros((6, 2)), advantage, Padded(mask)))
    assert (numbers["not_finite_advantages"], numbers["advantage_abs_max"], numbers["empty_sequences"]) == (2.0, 3.0, 1.0)


def test_log_ratios_beyond_50_are_counted_where_there_is_an_advantage() -> None:
    d = np.array([[60.0, 60.0, 0.0], [60.0, 60.0, 60.0], [49.0, 49.0, 49.0], [51.0, 51.0, 51.0]])
    batch = (d, np.zeros_like(d), np.array([-1.0, 0.0, -1.0, -1.0]), Padded(np.ones(d.shape, dtype=bool)))
    assert summary(on_layout(GRPO, *batch))["continued"] == 2.0 + 3.0
    assert summary(on_layout(GSPO, *batch))["continued"] == 3.0


def test_the_raw_weight_is_finite_exactly_where_its_logarithm_is() -> None:
    """0 where the trainer gives no probability, ∞ where the sampler gave none, NaN where neither does."""
    old = np.array([[-1.0, -math.inf, -1.0, -math.inf]])
    engine = np.array([[-90.0, -1.0, -math.inf, -math.inf]])
    layout = Padded(np.ones((1, 4), dtype=bool))
    w = sampler_weight(TIS, old, engine, layout)
    assert np.isfinite(w.raw).tolist() == [[True, True, False, False]]
    assert w.raw[0, 1:3].tolist() == [0.0, math.inf]
    assert w.weight[0, :3].tolist() == [2.0, 0.0, 2.0]
    for action in (ICEPOP, MIS):
        assert np.isfinite(sampler_weight(action, old, engine, layout).weight).all()
    by_product = sampler_weight(
        Correction(ProductWeight(), Truncate(3.0, 0.5)), old[:, :2], engine[:, :2], Padded(old[:, :2] < 0)
    )
    assert by_product.weight.tolist() == [0.5]
    assert sampler_weight(Correction(TokenWeight(), Truncate(3.0)), old, engine, layout).kept.all()
