"""The static study in its shortest form: what routing adds to log ratios, and that replay takes it away."""

from __future__ import annotations

import json
from pathlib import Path

import moe_stability
import numpy as np
import pytest
import torch
from moe_stability import Measured, Study

ROOT = Path(__file__).parents[1]
STUDENT = 2.3646
"""97.5 % quantile of Student's t with 7 degrees of freedom."""
SHORT = Study(seeds=1, warm_up=40, responses=96, length=48)


@pytest.fixture(scope="module")
def measured() -> Measured:
    """One seed."""
    return moe_stability.measure(SHORT, seed=0)


def test_replaying_its_own_routes_is_exact(measured: Measured) -> None:
    assert measured.own_routes_exact


def test_replay_more_than_halves_the_spread_of_the_token_log_ratios(measured: Measured) -> None:
    """Where the engine does choose other experts, in every layer."""
    assert min(measured.flips) > 0.02
    assert float(measured.free.noise.token_sd) > 2 * float(measured.replayed.noise.token_sd) > 0
    assert float(measured.free.total.token_sd) > 2 * float(measured.replayed.total.token_sd)


def test_routing_noise_is_independent_between_tokens_and_drift_is_not(measured: Measured) -> None:
    """So that a geometric mean cuts the former by √L, and the latter by less."""
    assert 0.7 < moe_stability.design_effect(measured.routing) < 1.4
    assert moe_stability.design_effect(measured.drift) > 1.4
    assert float(measured.free.log_s_noise_share) < float(measured.free.token_noise_share)


def test_the_design_effect_and_the_exponent_tell_noise_from_what_moves_as_one() -> None:
    """On log ratios that are made up: independent ones, and one shared by all tokens of a response."""
    generator = torch.Generator().manual_seed(0)
    noise, shared = torch.randn(4000, 96, generator=generator), torch.randn(4000, 1, generator=generator).expand(-1, 96)
    assert moe_stability.design_effect(noise) == pytest.approx(1.0, abs=0.1)  # its sd is √(2/4000) = 0.022
    assert moe_stability.design_effect(shared) == pytest.approx(96.0, rel=0.01)
    assert moe_stability.exponent(noise) == pytest.approx(-0.5, abs=0.05)
    assert moe_stability.exponent(shared) == pytest.approx(0.0, abs=1e-5)


def test_without_noise_and_steps_nothing_is_measured() -> None:
    """The guard of the study: both parts come from what was disturbed, and from nothing else."""
    quiet = moe_stability.measure(Study(warm_up=1, responses=4, length=12, router_noise=0.0, steps=0), seed=0)
    assert quiet.flips == [0.0] * SHORT.layers
    for part in (quiet.free.noise, quiet.free.staleness, quiet.replayed.noise, quiet.replayed.staleness):
        assert float(part.token_sd) == 0.0


def test_the_command_writes_its_numbers(tmp_path: Path) -> None:
    moe_stability.main(Study(seeds=1, warm_up=1, responses=8, length=12 * 2, out=tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["study"]["responses"] == 8
    assert results["seeds"][0]["own_routes_exact"] is True
    assert (tmp_path / "seed-0.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("path", "scale", "form"),
    [
        ("noise_token_sd free", 1, "{:.3f} ({:.3f} to {:.3f})"),
        ("noise_token_sd replayed", 1, "{:.3f} ({:.3f} to {:.3f})"),
        ("noise_log_s_sd free", 1, "{:.4f} ({:.4f} to {:.4f})"),
        ("noise_log_s_sd replayed", 1, "{:.4f} ({:.4f} to {:.4f})"),
        ("staleness_token_sd free", 1, "{:.4f} ({:.4f} to {:.4f})"),
        ("staleness_token_sd replayed", 1, "{:.4f} ({:.4f} to {:.4f})"),
        ("noise_share tokens free", 100, "{:.1f} % ({:.1f} to {:.1f})"),
        ("noise_share tokens replayed", 100, "{:.1f} % ({:.1f} to {:.1f})"),
        ("noise_share log_s free", 100, "{:.1f} % ({:.1f} to {:.1f})"),
        ("noise_share log_s replayed", 100, "{:.1f} % ({:.1f} to {:.1f})"),
        ("design_effect routing", 1, "{:.2f} ({:.2f} to {:.2f})"),
        ("design_effect drift", 1, "{:.2f} ({:.2f} to {:.2f})"),
        ("exponent routing", 1, "{:.2f} ({:.2f} to {:.2f})"),
        ("exponent drift", 1, "{:.2f} ({:.2f} to {:.2f})"),
    ],
)
def test_the_page_says_what_the_committed_numbers_say(path: str, scale: float, form: str) -> None:
    seeds = json.loads((ROOT / "docs/results/moe-static/results.json").read_text(encoding="utf-8"))["seeds"]
    values = np.array(seeds)
    for key in path.split():
        values = np.array([seed[key] for seed in values])
    values = scale * values.astype(float)
    half = STUDENT * values.std(ddof=1) / np.sqrt(len(values))
    expected = form.format(values.mean(), values.mean() - half, values.mean() + half).replace("-", "−")
    assert expected in (ROOT / "docs/moe.md").read_text(encoding="utf-8")
