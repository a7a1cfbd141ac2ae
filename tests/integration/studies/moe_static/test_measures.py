"""What the static study reports of log ratios, against scalar loops and log ratios that are made up."""

from __future__ import annotations

import math
import random

import pytest
import torch
from gspo_torch import Routes

from gspo_core import Clip
from integration.studies.moe_static import measures as moe_measures


def heavy(rows: int, width: int) -> torch.Tensor:
    """Log ratios with a tail: a few of them thirty times as large as the rest."""
    rng = random.Random(0)
    return torch.tensor(
        [[rng.gauss(0.01, 0.05) * (30 if rng.random() < 0.02 else 1) for _ in range(width)] for _ in range(rows)],
        dtype=torch.float64,
    )


def test_spread_and_tails_are_those_of_a_loop_over_tokens() -> None:
    d = heavy(20, 96)
    x = [float(one) for row in d for one in row]
    mean = math.fsum(x) / len(x)
    second, fourth = (math.fsum((one - mean) ** power for one in x) / len(x) for power in (2, 4))
    found = moe_measures.spread(d)
    assert found["token_sd"] == pytest.approx(math.sqrt(second))
    assert found["kurtosis"] == pytest.approx(fourth / second**2 - 3)
    assert found["kurtosis"] > 10
    beyond = sum(not 0.5 <= math.exp(one) <= 2 for one in x)
    assert found["beyond_2"] == pytest.approx(beyond / len(x))
    assert beyond > 0
    assert sum(abs(one) > found["p999"] for one in x) == 2  # of 1920
    means = [math.fsum(map(float, row[start : start + 24])) / 24 for row in d for start in range(0, 96, 24)]
    middle = math.fsum(means) / len(means)
    assert found["log_s_sd_24"] == pytest.approx(math.sqrt(math.fsum((m - middle) ** 2 for m in means) / (len(means) - 1)))


def test_the_design_effect_and_the_exponent_tell_noise_from_what_moves_as_one() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, shared = torch.randn(4000, 96, generator=generator), torch.randn(4000, 1, generator=generator).expand(-1, 96)
    assert moe_measures.design_effect(noise) == pytest.approx(1.0, abs=0.1)  # its sd is √(2/4000) = 0.022
    assert moe_measures.design_effect(shared) == pytest.approx(96.0, rel=0.01)
    assert moe_measures.exponent(noise) == pytest.approx(-0.5, abs=0.02)
    assert moe_measures.exponent(shared) == pytest.approx(
        0.0, abs=1e-4
    )  # 8 times the same numbers: n/(n − 1) is 1.1e-4 nearer to 1, over ln 8


def test_a_token_counts_as_changed_if_the_position_before_it_was_in_any_layer() -> None:
    """Four prompt positions and two tokens: the second is predicted from position 4, which changed in one of two layers."""
    before = torch.zeros(2, 1, 6, 2, dtype=torch.uint8)
    before[..., 1] = 1
    after = before.clone()
    after[1, 0, 4, 0] = 2
    after[0, 0, 0] = torch.tensor([1, 0], dtype=torch.uint8)  # another order is no change
    after[0, 0, 5, 1] = 3  # the last position predicts no token
    everywhere = torch.ones(1, 6, dtype=torch.bool)
    by_layer, shares = moe_measures.flips(
        Routes(before, everywhere, 4), Routes(after, everywhere, 4), torch.tensor([[1.0, 3.0]])
    )
    assert by_layer == [pytest.approx(1 / 12), pytest.approx(1 / 12)]
    assert shares == {"tokens_changed": 0.5, "tail_changed": 1.0, "variance_changed": pytest.approx(0.9)}


def test_token_gates_are_those_of_a_loop_over_tokens() -> None:
    now, old, sampler = heavy(16, 12), 0 * heavy(16, 12), heavy(16, 12).flip(0)
    advantage = torch.tensor([1.0, -1.0, 0.0, 2.0]).repeat(4)
    clip = Clip(0.05, 0.06)

    def clipped(log_ratio: float, a: float) -> bool:
        ratio = math.exp(log_ratio)
        return (a > 0 and ratio > 1.06) or (a < 0 and ratio < 0.95)

    pairs = [
        (clipped(float(now[i, t] - old[i, t]), float(a)), clipped(float(now[i, t] - sampler[i, t]), float(a)))
        for i, a in enumerate(advantage)
        for t in range(12)
    ]
    found = moe_measures.token_gates(now, old, sampler, advantage, clip)
    assert found["clipped_by_old"] == pytest.approx(sum(a for a, _ in pairs) / len(pairs))
    assert found["clipped_by_sampler"] == pytest.approx(sum(b for _, b in pairs) / len(pairs))
    assert found["disagreement"] == pytest.approx(sum(a != b for a, b in pairs) / len(pairs))
    assert 0 < found["clipped_by_old"] < found["clipped_by_sampler"] < 1
