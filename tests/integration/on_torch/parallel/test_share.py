"""A mini-batch is shared out so that no process has much more to do than another, and nothing is lost or done twice."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from integration.on_torch.parallel.share import share_out

COSTS = st.lists(st.integers(0, 5000), max_size=40)


@given(COSTS, st.integers(1, 9))
def test_every_response_belongs_to_one_process(costs: list[int], count: int) -> None:
    parts = share_out(costs, count)
    assert len(parts) == count
    assert sorted(index for part in parts for index in part) == list(range(len(costs)))
    assert all(part == sorted(part) for part in parts)


@given(COSTS, st.integers(1, 9))
def test_no_two_processes_differ_by_more_than_the_longest_response(costs: list[int], count: int) -> None:
    sums = [sum(costs[index] for index in part) for part in share_out(costs, count)]
    assert max(sums) - min(sums) <= max(costs, default=0)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 3))
def test_the_slowest_process_has_at_most_four_thirds_of_the_best_that_is_possible(costs: list[int], count: int) -> None:
    """Graham's bound, 4/3 − 1/(3 count), against all ways to share them out."""
    best = min(
        max(sum(cost for cost, rank in zip(costs, ranks, strict=True) if rank == own) for own in range(count))
        for ranks in itertools.product(range(count), repeat=len(costs))
    )
    slowest = max(sum(costs[index] for index in part) for part in share_out(costs, count))
    assert 3 * count * slowest <= (4 * count - 1) * best


def test_equal_responses_are_shared_out_equally() -> None:
    assert [len(part) for part in share_out([7] * 10, 4)] == [3, 3, 2, 2]
    assert [len(part) for part in share_out([0] * 6, 3)] == [2, 2, 2], "responses without a cost, too"
