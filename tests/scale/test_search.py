"""The layout that is named fits, no other that fits sends less, and what stops a run is said where none fits."""

from __future__ import annotations

import pytest
from gspo_scale import PRESETS, Shape, Spread, Work, best, memory, spreads, traffic
from gspo_scale.held import SPARE
from gspo_scale.sent import ring
from hypothesis import given
from hypothesis import strategies as st

MODELS = [PRESETS["qwen3-0.6b"], PRESETS["qwen3-8b"], PRESETS["qwen3-30b-a3b"]]
works = st.builds(
    Work, st.integers(1, 500), st.integers(1, 30000), st.integers(1, 20), st.integers(1, 9), dtype=st.just("bfloat16")
)
counts = st.integers(0, 10).map(lambda n: 2**n)


@given(shape=st.sampled_from(MODELS), work=works, gpus=counts, gigabytes=st.sampled_from([24.0, 80.0, 141.0]))
def test_a_layout_that_fits_fits_and_is_the_one_with_the_least_traffic(
    shape: Shape, work: Work, gpus: int, gigabytes: float
) -> None:
    chosen = best(shape, work, gpus, gigabytes)
    assert chosen.spread.gpus == gpus
    assert chosen.fits == (SPARE * chosen.memory.peak <= 0.95e9 * gigabytes)
    assert chosen.rows * chosen.spread.data <= max(chosen.spread.data, work.per_step + chosen.spread.data)
    for spread in spreads(work, gpus):
        other, sent = memory(shape, work, spread), traffic(shape, work, spread)
        if SPARE * other.peak <= 0.95e9 * gigabytes:
            assert chosen.fits
            assert (chosen.spread.vocabulary, chosen.traffic.total) <= (spread.vocabulary, sent.total)


def test_it_is_not_vacuous() -> None:
    """Some runs fit on one GPU, some on several, and some on none."""
    assert best(MODELS[0], Work(), 1, 80).fits
    assert not best(MODELS[1], Work(), 1, 80).fits
    assert best(MODELS[1], Work(), 8, 80).fits
    long = Work(prompt=1024, response=2**20, dtype="bfloat16", checkpointing=True, padded=False)
    stopped = best(MODELS[2], long, 1024, 80)
    assert not stopped.fits
    assert stopped.memory.largest() == "sampling"


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        ({"gpus": 6, "context": 4}, "gpus: expected a multiple of context × vocabulary = 4, got 6"),
        ({"gpus": 0}, "gpus: expected"),
        ({"parallel": "zero"}, "parallel: expected one of ddp, fsdp, got 'zero'"),
    ],
)
def test_a_layout_that_is_none_is_refused(given_: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        Spread(**given_)  # type: ignore[arg-type]  # wrong on purpose


def test_work_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^dtype: expected one of float32, bfloat16, got 'int8'"):
        Work(dtype="int8")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match=r"^response: expected"):
        Work(response=0)


@given(size=st.integers(0, 10**9), ranks=st.integers(1, 1024))
def test_a_ring_sends_what_each_rank_lacks(size: int, ranks: int) -> None:
    """By hand: in each of n − 1 steps a rank sends one n-th."""
    assert ring(size, ranks) == sum(size for _ in range(ranks - 1)) // ranks
    assert ring(size, ranks, 2) <= 2 * size


@given(tokens=st.integers(1, 10**5), vocabulary=st.integers(10, 10**6))
def test_what_a_loss_sends_does_not_grow_with_tokens_or_vocabulary(tokens: int, vocabulary: int) -> None:
    """Data and context parallel; docs/scaling.md and tests/backend_torch/test_traffic.py have the measured bytes."""
    shape = PRESETS["qwen3-0.6b"]
    other = type(shape)(**{**vars(shape), "vocabulary": vocabulary})
    for spread in (Spread(8), Spread(8, context=4), Spread(8, "fsdp", context=8)):
        sent = traffic(shape, Work(), spread)
        assert sent.loss == traffic(other, Work(response=tokens), spread).loss
        assert sent.metrics == traffic(other, Work(response=tokens), spread).metrics
