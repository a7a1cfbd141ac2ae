"""A wrong advantage function is explained by the formula that it computes, and by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core import group_advantages, laws
from gspo_core.advantages.normalisers import Centred, LeaveOneOut, ZScore


def by_group(reward: Any, group: Any, statistic: Any) -> Any:
    """A statistic of each response's group."""
    return np.array([statistic(reward[group == g]) for g in group])


def z_score(reward: Any, group: Any, *, ddof: int = 0, eps: float = 0.0, sign: float = 1.0) -> Any:
    """(r − mean)/(std + eps), and 0 where the rewards of a group are equal."""
    gap = reward - by_group(reward, group, np.mean)
    std = by_group(reward, group, lambda r: r.std(ddof=ddof) if len(r) > ddof else 0.0)
    flat = by_group(reward, group, np.ptp) == 0
    return sign * np.where(flat, 0.0, gap / np.where(flat, 1.0, std + eps))


def said(fn: Any, like: Any) -> list[str]:
    """The causes of what is broken."""
    return [cause.sentence for cause in laws.check_advantages(fn, like, examples=10).causes]


PAIRS = [(1, 1.0, 0.0), (0, -1.0, 0.0), (1, -1.0, 0.0), *((0, 1.0, eps) for eps in (1e-6, 1e-5, 1e-4, 1e-3))]


@pytest.mark.parametrize(("ddof", "sign", "eps"), [*PAIRS, (1, 1.0, 1e-4), (0, -1.0, 1e-6)])
def test_one_or_two_differences_are_named(ddof: int, sign: float, eps: float) -> None:
    (found,) = said(lambda r, g: z_score(r, g, ddof=ddof, eps=eps, sign=sign), ZScore())
    assert ("ddof = 1, not G" in found) == (ddof == 1)
    assert ("the sign is flipped" in found) == (sign < 0)
    assert (f"{eps:g} is added to the standard deviation, not 0" in found) == (eps > 0)


@pytest.mark.parametrize(
    ("words", "fn", "like"),
    [
        ("not divided by a standard deviation", lambda r, g: r - by_group(r, g, np.mean), ZScore()),
        ("the variance", lambda r, g: z_score(r, g) / np.maximum(by_group(r, g, np.std), 1e-9), ZScore()),
        ("no mean is subtracted", lambda r, _: r, Centred()),
        ("divided by the standard deviation of the group", z_score, Centred()),
        ("the mean of the other responses", lambda r, g: group_advantages(r, g, LeaveOneOut()), Centred()),
        ("the mean of the batch", lambda r, _: r - r.mean(), Centred()),
    ],
)
def test_each_difference_has_its_words(words: str, fn: Any, like: Any) -> None:
    assert words in said(fn, like)[0]


def test_what_happens_to_a_group_of_equal_rewards_stands_beside_another_mistake() -> None:
    def both(reward: Any, group: Any) -> Any:
        return (reward - by_group(reward, group, np.mean)) / by_group(
            reward, group, lambda r: r.std(ddof=1) if len(r) > 1 else 0
        )

    found = said(both, ZScore())
    assert "ddof = 1, not G" in found[0]
    assert "NaN, as 0/0 is" in found[1]


def test_what_no_formula_explains_has_the_name_of_its_law_or_its_error() -> None:
    def raising(reward: Any, group: Any) -> Any:
        raise ValueError(f"no group of {len(reward) - len(group)}")

    assert said(raising, ZScore())[0] == "the function raises ValueError: no group of 0"
    odd = said(lambda r, g: z_score(r, g) * (1.0 + 0.01 * np.sin(r)), ZScore())
    assert "not so: the advantages are those of the stated normaliser" in odd


def test_a_rounding_error_is_called_blown_up_only_if_it_is() -> None:
    """0.1 − mean(0.1, 0.1, 0.1) is 1e-17, which a standard deviation of 1e-17 makes 1."""
    centred = said(lambda r, g: r - by_group(r, g, np.mean), Centred())
    assert "a group of equal rewards has advantages of about 1e-17, a rounding error" in centred[0]
    blown = said(lambda r, g: (r - by_group(r, g, np.mean)) / np.maximum(by_group(r, g, np.std), 1e-30), ZScore())
    assert "divided by a standard deviation of nearly 0" in blown[0]


@pytest.mark.parametrize("like", [ZScore(), ZScore(ddof=1, eps=1e-4), Centred(), LeaveOneOut()], ids=str)
def test_our_own_advantages_have_no_cause(like: Any) -> None:
    assert said(lambda r, g: group_advantages(r, g, like), like) == []
