"""The multi-turn study's numbers: paired by seed, with an interval that means what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from integration.studies.multi_turn.report import at_better_rates, better_rate, cells, differences, growth, interval, table


def row(arm: str, turns: int, seed: int, before: float, after: float, lr: float = 0.1) -> dict[str, Any]:
    """A finished run; of whole dialogues half as many are right."""
    evaluations = []
    for rollout, share in ((0, before), (9, after)):
        measured = {"turns": share, "success": share / 2}
        evaluations.append({"rollout": rollout, "sampled": measured, "greedy": measured})
    return {"settings": {"arm": arm, "turns": turns, "lr": lr, "seed": seed}, "result": {"evaluations": evaluations}}


ROWS = [
    row("token", 2, 1, 0.4, 0.7),
    row("gspo", 2, 0, 0.4, 0.5),
    row("gspo", 2, 1, 0.4, 0.6),
    row("token", 2, 0, 0.4, 0.7),
    row("token", 2, 7, 0.4, 0.9),  # no partner: not in the difference
    row("gspo", 8, 0, 0.4, 0.4),
    row("token", 8, 0, 0.4, 0.8),
]


def test_differences_are_paired_by_seed_and_growth_by_seed_too() -> None:
    found = cells(ROWS)
    assert [(key[0], key[2]) for key in found] == [(2, "gspo"), (2, "token"), (8, "gspo"), (8, "token")]
    assert differences(found[2, 0.1, "token"], found[2, 0.1, "gspo"], "sampled", "turns") == pytest.approx({0: 20.0, 1: 10.0})
    assert growth(ROWS, "token", 2, 8, "turns") == pytest.approx([20.0])
    assert growth(ROWS, "token", 2, 8, "success") == pytest.approx([10.0])


def test_the_table_says_so() -> None:
    lines = table(ROWS).splitlines()
    assert lines[2] == "| 2 | 0.1 | gspo | 2 | 40.0 % | 55.0 % |  |  | 27.5 % |  |"
    assert lines[3].startswith("| 2 | 0.1 | token | 3 | 40.0 % | 76.7 % | +15.0 (+10.0 to +20.0) | 2 of 2 | 38.3 % | +7.5 (")


def test_each_arm_is_taken_at_its_better_rate() -> None:
    rows = [
        *ROWS,
        row("gspo", 2, 0, 0.4, 0.9, lr=0.2),
        row("gspo", 2, 1, 0.4, 0.4, lr=0.2),
        row("token", 2, 0, 0.4, 0.1, lr=0.2),
    ]
    assert better_rate(rows, 2, "gspo").lr == 0.2  # 65 % on average against 55 %
    assert better_rate(rows, 2, "token").lr == 0.1
    text = at_better_rates(rows)
    assert "| 2 | gspo | 0.2 | 65.0 % |  | 32.5 % |  |" in text
    assert "| 2 | token | 0.1 | 76.7 % | +5.0 (−20.0 to +30.0) | 38.3 % | +2.5 (−10.0 to +15.0) |" in text
    assert "- token above GSPO, 8 turns less 2: +60.0 (+60.0 to +60.0) points" in text  # seed 0: 40 − (70 − 90)


@pytest.mark.slow
def test_the_interval_covers_the_mean_about_as_often_as_a_percentile_bootstrap_of_eight_does() -> None:
    """95 % asked for; with eight values the percentile bootstrap is known to be narrower: it covers 89 to 92 %."""
    source = np.random.default_rng(0)
    covered = [low <= 0.0 <= high for low, high in (interval(list(source.normal(size=8))) for _ in range(400))]
    assert 0.86 < np.mean(covered) < 0.96
    assert interval([3.0, 3.0]) == (3.0, 3.0)
