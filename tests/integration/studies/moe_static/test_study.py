"""The static study in its shortest form: what routing adds to log ratios, that replay takes it away, what is not routing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gspo_core import Clip
from integration.options.errors import UserError
from integration.records.json_lines import read_rows
from integration.studies.moe_static import seed as moe_seed
from integration.studies.moe_static import study
from integration.studies.moe_static.measures import token_gates
from integration.studies.moe_static.models import Size, every_token, sampled, warmed_up
from integration.studies.moe_static.perturbations import NoisyRouters, optimized, scaled_band
from integration.studies.moe_static.study import Options

SHORT = Size(layers=3, warm_up=80, trained=96, measured=96, length=48)
TINY = Size(layers=1, hidden=16, head=8, warm_up=1, trained=16, measured=16, length=24)
CPU = torch.device("cpu")
NOISE = "router noise 0.05"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixture() -> dict[str, Any]:
    """One seed of the mixture of experts."""
    return moe_seed.of_kind(SHORT, 0, "moe", CPU)


@pytest.fixture(scope="module")
def dense() -> dict[str, Any]:
    """Its dense control."""
    return moe_seed.of_kind(SHORT, 0, "dense", CPU)


def test_replaying_its_own_routes_is_exact(mixture: dict[str, Any]) -> None:
    assert mixture["own_routes_exact"] is True


@pytest.mark.parametrize("name", [NOISE, "router noise 0.2", "bfloat16 engine"])
def test_replay_more_than_halves_the_spread_of_the_token_log_ratios(mixture: dict[str, Any], name: str) -> None:
    """Where the engine does choose other experts, in every layer."""
    cell = mixture["cells"][name]
    assert min(cell["flips_by_layer"]) > 0.001
    assert cell["free"]["token_sd"] > 2 * cell["replayed"]["token_sd"] > 0


def test_routing_noise_is_independent_between_tokens(mixture: dict[str, Any]) -> None:
    """So that a geometric mean cuts it by √L."""
    for name in (NOISE, "router noise 0.2", "bfloat16 engine"):
        assert 0.7 < mixture["cells"][name]["routing"]["design_effect"] < 1.4


def test_what_was_trained_on_moves_together_and_what_was_not_does_not(mixture: dict[str, Any]) -> None:
    """After a small step, at fixed routes: the response is pushed as one, by its own advantage."""
    cell = mixture["cells"]["8 steps, lr 0.0001"]
    assert cell["trained"]["replayed"]["design_effect"] > 2
    assert 0.6 < cell["replayed"]["design_effect"] < 1.7


def test_the_tail_of_a_bfloat16_engine_is_routing(mixture: dict[str, Any], dense: dict[str, Any]) -> None:
    """Tokens whose route changed are few, and hold the tail; without routing there is none."""
    cell, control = mixture["cells"]["bfloat16 engine"], dense["cells"]["bfloat16 engine"]
    assert cell["tokens_changed"] < 0.1
    assert cell["tail_changed"] > 0.9
    assert cell["free"]["kurtosis"] > 30
    assert max(cell["replayed"]["kurtosis"], control["free"]["kurtosis"]) < 10


def test_the_dense_control_has_no_routes_and_is_as_wide_as_a_tokens_experts(dense: dict[str, Any]) -> None:
    assert list(dense["cells"]["1 step, lr 0.0003"]) == ["free", "trained"]
    assert [name for name in dense["cells"] if "engine" in name or "noise" in name] == ["bfloat16 engine"]
    model = warmed_up(TINY, 0, "dense", CPU).model
    assert model.config.intermediate_size == TINY.top_k * TINY.expert_width


def test_replaying_the_engines_routes_brings_the_gates_closer(mixture: dict[str, Any]) -> None:
    gates = mixture["gates"]["1 step, lr 0.0003"]["router noise 0.2"]["scaled"]
    assert gates["free"]["disagreement"] > gates["r3"]["disagreement"] > 0
    assert gates["free"]["noise_floor_share"] > 2 * gates["r3"]["noise_floor_share"]


def test_without_noise_and_steps_nothing_is_measured() -> None:
    """The guard of the study: what it reports comes from what was disturbed, and from nothing else."""
    policy = warmed_up(TINY, 0, "moe", CPU)
    rollout = sampled(policy, 16, 0)
    held = moe_seed.Scored.of(policy, rollout)
    quiet, routes = NoisyRouters(0.0).scored(policy, rollout.ids, 0)
    assert torch.equal(quiet, held.logp)
    assert routes.flips(held.routes).tolist() == [0.0]
    for _, now in optimized(policy, rollout, lr=0.0):
        cell = moe_seed.moved("moe", now, held)
        assert [cell[way]["token_sd"] for way in ("free", "replayed", "routing")] == [0.0] * 3


def test_the_old_policy_is_left_alone_and_the_new_one_moves() -> None:
    policy = warmed_up(TINY, 0, "moe", CPU)
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    rollout = sampled(policy, 16, 0)
    assert [steps for steps, _ in optimized(policy, rollout, 1e-3)] == [1, 4, 8]
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())


def test_responses_come_in_groups_with_advantages_of_mean_zero() -> None:
    rollout = sampled(warmed_up(TINY, 0, "moe", CPU), 32, 0)
    assert every_token(rollout.ids).valid.all()
    assert torch.allclose(rollout.advantage.reshape(-1, 8).mean(1), torch.zeros(4), atol=1e-6)
    assert rollout.advantage.std() > 0.5
    assert all(len(rollout.ids[8 * i : 8 * i + 8, :4].unique(dim=0)) == 1 for i in range(4))


def test_the_scaled_band_is_the_papers_at_ten_thousand_tokens_and_ten_times_as_wide_at_a_hundred() -> None:
    assert (scaled_band(10_000).low, scaled_band(10_000).high) == (3e-4, 4e-4)
    assert scaled_band(100).high == pytest.approx(4e-3)


def test_a_stopped_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(study.SIZES, "small", TINY)
    assert study.main(Options(seeds=1, out=tmp_path)) == 0
    (first,) = read_rows(tmp_path / "results.jsonl")
    assert study.main(Options(seeds=2, out=tmp_path)) == 0
    rows = read_rows(tmp_path / "results.jsonl")
    assert rows[0] == first
    assert [row["settings"]["seed"] for row in rows] == [0, 1]
    assert rows[0]["result"]["moe"]["cells"] == study.rounded(moe_seed.of_kind(TINY, 0, "moe", CPU)["cells"])
    monkeypatch.setitem(study.SIZES, "small", dataclasses.replace(TINY, layers=2))
    with pytest.raises(UserError, match="run small-0 was done with other settings"):
        study.main(Options(seeds=2, out=tmp_path))


def test_numbers_are_written_with_six_digits() -> None:
    assert study.rounded({"a": [1.23456789, 3], "b": 1e-9 / 3}) == {"a": [1.23457, 3], "b": 3.33333e-10}


def test_the_clip_decisions_on_tokens_agree_with_a_scalar_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    now, old, sampler = torch.randn(3, 6, 5, generator=generator) * 0.3 - 1
    advantage = torch.tensor([1.0, -1.0, 0.0, 0.5, -2.0, 3.0])
    counts = {"clipped_by_old": 0, "clipped_by_sampler": 0, "disagreement": 0}
    for i, a in enumerate(advantage.tolist()):
        for t in range(5):
            by_old, by_sampler = (
                (a > 0 and float(now[i, t] - x[i, t]) > math.log(1.27))
                or (a < 0 and float(now[i, t] - x[i, t]) < math.log(0.8))
                for x in (old, sampler)
            )
            counts["clipped_by_old"] += by_old
            counts["clipped_by_sampler"] += by_sampler
            counts["disagreement"] += by_old != by_sampler
    found = token_gates(now, old, sampler, advantage, Clip(0.2, 0.27))
    assert found == {name: pytest.approx(count / 30) for name, count in counts.items()}
    assert min(counts.values()) > 0
