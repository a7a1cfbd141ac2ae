"""Every metric is what nested scalar loops say, for every preset, layout and library, and says nothing about padding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import REL64, assert_same_bits, assert_within
from support.cases import POISONS, Batch, batches
from support.draws import at_most
from support.family import MEMBERS, Member, by_member, largest
from support.inputs.metric_cases import assert_numbers, at_tokens, judged, measured, on_layout, pack, token_arrays, vectors
from support.libraries import NUMPY, Library
from support.oracles import metrics as oracle_metrics
from support.ranks import Ranks

from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    Clip,
    Objective,
    Packed,
    Padded,
    PerToken,
    SequenceMean,
    Turns,
    batch_metrics,
    policy_loss,
    sharded,
    summary,
)
from gspo_core.metrics import Metrics, clip_counts, clip_share
from gspo_core.objectives import Turn, TurnMean


@by_member
@at_most(20)
@given(batch=batches(edges=False), tokens=st.booleans())
def test_every_number_is_the_oracles(member: Member, batch: Batch, tokens: bool) -> None:
    advantage = member.advantage(batch, tokens)
    assume(member.is_clear_of_kinks(batch, advantage, 1e-9))
    metrics = measured(NUMPY, member.objective, batch, advantage)
    numbers, loss_scale = judged(member, batch, advantage)
    assert_numbers(summary(metrics), numbers, largest(batch), loss_scale)
    table = {(int(math.log2(c.shortest)), c.sign): (c.sequences, c.clipped) for c in clip_counts(metrics)}
    assert table == oracle_metrics.table(member.judged(batch, advantage), at_tokens(batch, advantage), batch.mask.tolist())


@given(batch=batches(edges=False))
def test_every_library_has_the_same_numbers(library: Library, batch: Batch) -> None:
    for member in (m for m in MEMBERS if m.name in ("GSPO", "GSPO_TOKEN", "GRPO")):
        assume(member.is_clear_of_kinks(batch, batch.advantage, 1e-9))
        numbers, loss_scale = judged(member, batch, batch.advantage)
        metrics = measured(library, member.objective, batch, batch.advantage)
        assert_numbers(summary(metrics), numbers, largest(batch), loss_scale)


@pytest.mark.slow
@given(batch=batches(), poison=st.sampled_from(POISONS), dtype=st.sampled_from([np.float32, np.float64]))
def test_poison_in_masked_slots_changes_no_bit(library: Library, batch: Batch, poison: float, dtype: type) -> None:
    for objective, tokens in ((GSPO, False), (GRPO, True), (GSPO_TOKEN, True)):
        found = []
        for x in (batch.clean(), batch.poisoned(poison)):
            arrays = [library.array(y.astype(dtype)) for y in (x.logp, x.old_logp, x.advantages(tokens))]
            found.append(vectors(on_layout(objective, *arrays, Padded(library.array(x.mask))), library))
        for a, b in zip(*found, strict=True):
            assert_same_bits(a, b)
            assert not np.isnan(a).any()


@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4), (0, 0)])
def test_a_batch_without_tokens_has_no_numbers_and_no_nan(library: Library, shape: tuple[int, int]) -> None:
    zeros = np.zeros(shape)
    nothing = Batch(zeros, zeros, np.zeros(shape, dtype=bool), np.zeros(shape[0]), zeros, 0.2, 0.2).poisoned(np.nan)
    for objective in (GSPO, GRPO):
        metrics = measured(library, objective, nothing, nothing.advantage)
        counts, sums, minima, maxima = vectors(metrics, library)
        assert counts.sum() == shape[0]
        assert not sums.any()
        assert (minima == np.inf).all()
        assert (maxima == -np.inf).all()
        assert summary(metrics) == ({"empty_sequences": shape[0]} if shape[0] else {})
        assert clip_counts(metrics) == ()
        assert clip_share(metrics, 0.1, 0.1) == 0.0


@given(batch=batches(edges=False), hole=st.sampled_from([-1, 1000]), seed=st.integers(0, 99))
def test_packed_metrics_are_padded_metrics(batch: Batch, hole: int, seed: int) -> None:
    ids, arrays = pack(batch, hole)
    order = np.random.default_rng(seed).permutation(len(ids))
    for member in (m for m in MEMBERS if m.name in ("GSPO", "GSPO_TOKEN", "GRPO")):
        per_token = member.per_token
        advantage = batch.advantages(per_token)
        assume(member.is_clear_of_kinks(batch, advantage, 1e-9))
        numbers, loss_scale = judged(member, batch, advantage)
        given_ = PerToken(arrays[2][order]) if per_token else advantage
        packed = on_layout(member.objective, arrays[0][order], arrays[1][order], given_, Packed(ids[order], len(batch.mask)))
        assert_numbers(summary(packed), numbers, largest(batch), loss_scale)


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name in ("GSPO", "GRPO", "GMPO")], ids=lambda m: m.name)
@at_most(20)
@given(batch=batches(edges=False), cuts=st.lists(st.integers(0, 9), min_size=1, max_size=2))
def test_on_shards_every_rank_has_the_metrics_of_whole_sequences(member: Member, batch: Batch, cuts: list[int]) -> None:
    """Sequences are not counted once per rank, and tokens not only where they stand."""
    assume(member.is_clear_of_kinks(batch, batch.advantage, 1e-9))
    numbers, loss_scale = judged(member, batch, batch.advantage)
    width = batch.mask.shape[1]
    bounds = [0, *sorted(min(cut, width) for cut in cuts), width]
    columns = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    ranks = Ranks(len(columns))

    def one_rank(rank: int) -> Metrics:
        layout = sharded(Padded(batch.mask[:, columns[rank]]), ranks.all_reduce(rank))
        logp, old, _ = (x[:, columns[rank]] for x in token_arrays(batch))
        return on_layout(member.objective, logp, old, batch.advantage, layout)

    found = [summary(metrics) for metrics in ranks.run(one_rank)]
    for own in found:  # the largest log-prob alone is that of the rank's tokens
        own["positive_max"] = max(each["positive_max"] for each in found) if "positive_max" in own else 0.0
        assert_numbers(own, {"positive_max": 0.0} | numbers, largest(batch), loss_scale)


def test_by_hand() -> None:
    """Three answers of 2, 1 and 0 tokens: log s is 0.3 and −0.1; clip range ±0.2 in the ratio."""
    logp = np.array([[0.2, 0.4], [-0.1, 9.0], [9.0, 9.0]])
    mask = np.array([[True, True], [True, False], [False, False]])
    advantage, objective = np.array([2.0, -1.0, 5.0]), GSPO.with_clip(0.2, 0.2)
    metrics = on_layout(objective, logp, np.zeros((3, 2)), advantage, Padded(mask))
    numbers = summary(metrics)
    expected = {
        "sequences": 2.0,
        "tokens": 3.0,
        "length_mean": 1.5,
        "loss": (-1.2 * 2.0 + math.exp(-0.1)) / 2,
        "gradient": math.exp(-0.1) / 2,
        "advantage_mean": 0.5,
        "advantage_abs_mean": 1.5,
        "clip_active": 0.5,
        "clip_high": 0.5,
        "clip_low": 0.0,
        "clip_active_tokens": 2 / 3,
        "log_s_mean": 0.1,
        "log_s_std": 0.2,
        "log_s_min": -0.1,
        "log_s_max": 0.3,
        "kl_k1_per_token": -0.5 / 3,
        "kl_k1_per_sequence": -0.25,
        "kl_k3_per_token": (math.exp(0.2) + math.exp(0.4) + math.exp(-0.1) - 3 - 0.5) / 3,
        "design_effect": 2 * (0.6 - 2 * 0.5 / 3) ** 2 / (3 - 5 / 3) / ((0.04 + 0.16 + 0.01 - 0.25 / 3) / 2),
    }
    for name, value in expected.items():
        assert_within(numbers[name], value, REL64)
    assert [tuple(cell) for cell in clip_counts(metrics)] == [(1, 1, -1, 1, 0), (2, 3, 1, 1, 1)]


@pytest.mark.parametrize("reduction", [SequenceMean(), TurnMean()])
def test_a_turn_is_clipped_on_its_own(library: Library, reduction: SequenceMean | TurnMean) -> None:
    """Two turns of 2 and 1 tokens: the first beyond the range, the second inside. Two of three tokens, no whole response."""
    objective = Objective(Turn(), Clip(0.2, 0.2), reduction)
    logp, old, advantage = (library.array(np.array(x)) for x in ([[0.5, 0.7, 9.0, 0.1]], [[0.0] * 4], [[1.0, 1.0]]))
    mask, ids = np.array([[True, True, False, True]]), np.array([[0, 0, 0, 1]])
    numbers = summary(on_layout(objective, logp, old, advantage, Turns(Padded(library.array(mask)), library.array(ids), 2)))
    assert (numbers["clip_active"], numbers["zero_advantage"], numbers["sequences"]) == (0.0, 0.0, 1.0)
    assert_within([numbers["clip_active_tokens"], numbers["clip_high_tokens"]], [2 / 3, 2 / 3], REL64)
    assert_within(numbers["log_s_mean"], 1.3 / 3, REL64)


def test_on_policy_batches_are_told_apart() -> None:
    logp, layout, advantage = np.full((2, 3), -1.0), Padded(np.ones((2, 3), dtype=bool)), np.array([1.0, -1.0])
    loss = policy_loss(GSPO, logp, None, advantage, layout, on_policy=True)
    numbers = summary(batch_metrics(GSPO, loss, logp, None, advantage, layout))
    assert (numbers["on_policy"], numbers["log_s_max"], numbers["ess"], numbers["kl_k3_per_token"]) == (1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"objective": "GSPO"}, TypeError, "objective"),
        ({"loss": 1.0}, TypeError, "loss"),
        ({"old_logp": None}, ValueError, "old_logp"),
        ({"layout": Padded(np.ones((2, 4), dtype=bool))}, ValueError, "loss"),
        ({"logp": np.zeros((2, 4))}, ValueError, "logp"),
        ({"advantage": np.zeros(3)}, ValueError, "advantage"),
        ({"layout": None}, TypeError, "layout"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, object], error: type[Exception], message: str) -> None:
    zero, layout = np.zeros((2, 3)), Padded(np.ones((2, 3), dtype=bool))
    loss = policy_loss(GSPO, zero, zero, np.ones(2), layout)
    arguments = {"objective": GSPO, "loss": loss, "logp": zero, "old_logp": zero, "advantage": np.ones(2), "layout": layout}
    with pytest.raises(error, match=f"^{message}"):
        batch_metrics(**(arguments | change))  # type: ignore[arg-type]  # wrong on purpose


def test_only_metrics_have_a_summary() -> None:
    with pytest.raises(TypeError, match=r"^metrics"):
        summary((1, 2, 3, 4))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match=r"^metrics"):
        summary(Metrics(np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)))
