"""The static study's page says what its committed results say, and its intervals are Student's."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from integration.studies.moe_static import page as moe_static_page
from integration.studies.moe_static.results import DOCS, RESULTS, STUDENT, Interval, committed, over_seeds

PAGE = (DOCS / "studies" / "moe-static.md").read_text(encoding="utf-8")


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    assert len(committed("small")) >= 8
    for name in moe_static_page.TABLES:
        assert moe_static_page.marks(f"small {name}")[0] in PAGE
    assert moe_static_page.with_tables(PAGE) == PAGE


def test_another_result_would_change_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = committed("small")
    seeds[0]["moe"]["cells"]["bfloat16 engine"]["free"]["token_sd"] *= 2
    monkeypatch.setattr(moe_static_page, "committed", lambda size: seeds if size == "small" else [])
    assert moe_static_page.with_tables(PAGE) != PAGE


def test_every_picture_of_the_page_is_there() -> None:
    pictures = re.findall(r"\]\(\.\./(results/moe-static/\w+\.png)\)", PAGE)
    assert {f"results/moe-static/{path.name}" for path in RESULTS.glob("*.png")} == set(pictures)
    assert len(pictures) == 4


def test_the_results_are_of_different_seeds_and_of_one_size() -> None:
    for size in ("small", "large"):
        seeds = committed(size)
        assert [one["seed"] for one in seeds] == list(range(len(seeds)))
        assert all(one["size"] == seeds[0]["size"] for one in seeds)
        assert len({one["moe"]["mean_log_prob"] for one in seeds}) == len(seeds)


def test_what_the_abstract_says_of_every_seed_holds_in_every_seed() -> None:
    """The ranges that stand there as numbers of seeds, not as means."""
    for seed in committed("small"):
        cells = seed["moe"]["cells"]
        assert seed["moe"]["own_routes_exact"]
        for name, low, high in (
            ("bfloat16 engine", 4.0, 5.05),
            ("router noise 0.05", 5.0, 5.95),
            ("router noise 0.2", 2.65, 2.9),
            ("1 step, lr 0.0001", 2.65, 3.35),
        ):
            assert low <= cells[name]["free"]["token_sd"] / cells[name]["replayed"]["token_sd"] < high
        by_layer = cells["bfloat16 engine"]["flips_by_layer"]
        assert by_layer[-1] > by_layer[0]


@pytest.mark.parametrize("freedom", [1, 2, 7, 15])
def test_the_quantiles_are_students(freedom: int) -> None:
    """By the trapezoidal rule over its density: 97.5 % lie below, but for the fourth decimal that the table leaves out."""
    x = np.linspace(0, STUDENT[freedom - 1], 200_001)
    height = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    density = height * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    assert 0.5 + float(np.trapezoid(density, x)) == pytest.approx(0.975, abs=5e-4 * float(density[-1]))


def test_an_interval_is_t_standard_errors_wide_and_written_with_two_digits() -> None:
    found = Interval.of([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 / math.sqrt(3))
    assert found.text() == "2.0 ± 2.5"
    assert Interval(-0.48312, 0.0123).text() == "−0.483 ± 0.012"
    assert Interval(0.00412, 0.0002).text(100) == "0.412 ± 0.020"
    assert Interval.of([0.5]).text() == "0.5"


def test_a_number_that_the_dense_model_has_not_is_an_empty_cell_and_a_misspelt_one_an_error() -> None:
    seeds = committed("small")
    assert over_seeds(seeds, "dense", "cells", "router noise 0.2", "free", "token_sd") is None
    assert moe_static_page.cell(seeds, "dense", "cells", "router noise 0.2", "free", "token_sd") == ""
    with pytest.raises(KeyError):
        over_seeds(seeds, "moe", "cells", "bfloat16 engine", "free", "no such number")
