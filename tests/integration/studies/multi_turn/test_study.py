"""The arms of the multi-turn study differ in what they should, and in nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
import torch
from gspo_torch import policy_loss
from torch import Tensor

from gspo_core import Clip
from integration.options.errors import TrainingFailure, UserError
from integration.studies.multi_turn import study as multi_turn
from integration.studies.multi_turn import training as dialogue_training
from integration.studies.multi_turn.arms import ARMS, Arm
from integration.studies.multi_turn.model import WarmUp, build_policy, load_policy, warmed_up
from integration.studies.multi_turn.register_machine import END, Episode, Verdict, draw_episodes
from integration.studies.multi_turn.rollout import Dialogues, dialogue_logp, draw
from integration.studies.multi_turn.study import Study, runs_of
from integration.studies.multi_turn.training import Training

pytestmark = pytest.mark.slow

GROUPS = np.arange(24) // 8
CPU = torch.device("cpu")


@cache
def policy() -> Any:
    """A small one that is right now and then."""
    return warmed_up(WarmUp(0, target=0.02, turns=3, layers=2, hidden=48, batch_size=32, lr=4e-3))


@cache
def sampled() -> Dialogues:
    """24 dialogues of three turns, some of them short, in three groups."""
    return draw(policy(), draw_episodes(3, 3, random.Random(0), held_out=False), 8, torch.Generator().manual_seed(1))


def rewarded() -> Dialogues:
    """The same with rewards at random, so that every group has an advantage in every turn; some dialogues end early."""
    source = np.random.default_rng(0)
    played = sampled().played
    return replace(sampled(), rewards=1.0 * ((source.random(played.shape) < 0.5) & played))


def by_hand(arm: str, rewards: list[list[float]], played: list[list[bool]]) -> list[list[float]]:
    """[N, K] in scalar loops: the z-score of what a turn is judged by, among those of its group that it is compared with."""
    worth = [[0.0] * 3 for _ in rewards]
    for group in range(3):
        members = [i for i in range(24) if i // 8 == group]
        for k in range(3):
            others = [i for i in members if arm not in {"token", "turn"} or played[i][k]]
            own, rest = arm in {"token", "turn"}, arm == "token-to-go"
            judged = {i: rewards[i][k] if own else sum(rewards[i][k:]) if rest else sum(rewards[i]) for i in others}
            mean, spread = fmean(judged.values()), pstdev(judged.values())
            for i in others:
                worth[i][k] = (judged[i] - mean) / spread if spread > 0 else 0.0
    return worth


@pytest.mark.parametrize("arm", ARMS)
def test_what_a_turn_is_worth_agrees_with_a_scalar_loop(arm: str) -> None:
    dialogues = rewarded()
    assert 0 < dialogues.played[:, -1].mean() < 1
    expected = by_hand(arm, dialogues.rewards.tolist(), dialogues.played.tolist())
    ours = ARMS[arm].values(dialogues, GROUPS)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    assert float(ours.abs().max()) > 0.5


@pytest.mark.parametrize("arm", ["token", "token-to-go", "token-uniform"])
def test_every_token_has_the_worth_of_its_turn_and_the_environment_has_none(arm: str) -> None:
    dialogues = rewarded()
    values = ARMS[arm].values(dialogues, GROUPS)
    advantage = ARMS[arm].advantage(values, dialogues).tolist()
    for i, ids in enumerate(dialogues.turn_ids.tolist()):
        assert advantage[i] == [0.0 if k < 0 else float(values[i, k]) for k in ids]


def gradient(arm: Arm, dialogues: Dialogues) -> Tensor:
    """Of the loss with respect to log-probs that have moved, [N, T]."""
    logp = dialogue_logp(policy(), dialogues).detach().double()
    noise = torch.randn(logp.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    old, logp = logp + 0.1 * noise, logp.requires_grad_()
    values = arm.values(dialogues, GROUPS).double()
    loss = policy_loss(arm.objective, logp, old, arm.advantage(values, dialogues), dialogues.layout)
    assert 0.05 < float(loss.clipped.double().mean()) < 0.95
    loss.value.backward()
    assert logp.grad is not None
    return logp.grad


def test_gspo_token_with_one_advantage_per_response_has_gspo_s_gradient_and_per_turn_it_has_not() -> None:
    clip = Clip(0.01, 0.02)
    gspo, uniform, turns = (gradient(ARMS[arm].clipped_at(clip), rewarded()) for arm in ("gspo", "token-uniform", "token"))
    torch.testing.assert_close(uniform, gspo, rtol=1e-12, atol=1e-15)
    assert float((turns - gspo).abs().max()) > 0.1 * float(gspo.abs().max()) > 0


def short(arm: str, seed: int = 0, rollouts: int = 3) -> tuple[dict[str, Any], list[Tensor]]:
    """(what a run returns, the weights after it)."""
    model = build_policy(WarmUp(0, layers=2, hidden=48))
    model.load_state_dict(policy().state_dict())
    result = Training(model, ARMS[arm], 2, 1e-3, seed).run(rollouts)
    return result, [parameter.detach() for parameter in model.parameters()]


@pytest.fixture
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot of one rollout, few evaluations, and a verifier for beginners, that looks at the first digit only."""

    def lenient(self: Episode, turn: int, reply: list[int]) -> Verdict:
        return Verdict(reply[0] == self.answer(turn)[0], END in reply)

    monkeypatch.setattr(Episode, "judge", lenient)
    monkeypatch.setattr(dialogue_training, "HELD_OUT", 32)
    monkeypatch.setattr(dialogue_training, "PILOT_ROLLOUTS", 1)


@pytest.mark.usefixtures("_short_runs")
def test_a_run_comes_out_the_same_to_the_bit_and_other_seeds_do_not() -> None:
    (first, weights), (second, again), (other, _) = short("token"), short("token"), short("token", seed=1)
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(weights, again, strict=True))
    assert first["rewards"] != other["rewards"]
    assert [row["rollout"] for row in first["evaluations"]] == [0, 1, 2, 3]


@pytest.mark.usefixtures("_short_runs")
def test_arms_begin_alike_and_uniform_gspo_token_stays_with_gspo() -> None:
    """Same weights, questions and samples in the first rollout; to rounding, the same policy after the run."""
    (gspo, weights), (uniform, same), (turns, others) = short("gspo"), short("token-uniform"), short("token")
    assert gspo["evaluations"][0] == turns["evaluations"][0]
    assert gspo["rewards"][0] == turns["rewards"][0]
    gap, reach = (max(float((a - b).abs().max()) for a, b in zip(weights, w, strict=True)) for w in (same, others))
    assert reach > 1e-3
    assert gap < 0.02 * reach
    assert gspo["rewards"] == uniform["rewards"]


@pytest.mark.usefixtures("_short_runs")
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_s_clip_range_is_what_clips_a_tenth_of_its_pilot(arm: str) -> None:
    model = build_policy(WarmUp(0, layers=2, hidden=48))
    model.load_state_dict(policy().state_dict())
    training = Training(model, ARMS[arm], 2, 1e-3, 0)
    training.rollout()
    (pilot,), clip = training.advice.rollouts, training.advice.clip
    assert clip is not None
    assert training.arm.objective.surrogate == clip
    assert (pilot.advantage != 0).all()
    beyond = ((pilot.advantage > 0) & (pilot.log_s > np.log1p(clip.high))) | (
        (pilot.advantage < 0) & (pilot.log_s < np.log1p(-clip.low))
    )
    assert beyond.mean() == pytest.approx(0.1, abs=2.5 / len(pilot.log_s))
    assert not training.clipped
    training.rollout()
    assert len(training.clipped) == 1


def test_a_warm_up_stops_at_its_target_is_kept_and_says_when_it_fails(tmp_path: Path) -> None:
    quick = WarmUp(3, target=0.0, turns=2, layers=1, hidden=32, check_every=1)
    made, loaded = (load_policy(quick, tmp_path, CPU) for _ in range(2))
    assert len(list(tmp_path.iterdir())) == 1
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), loaded.parameters(), strict=True))
    assert not torch.equal(next(made.parameters()), next(build_policy(quick).parameters()))
    with pytest.raises(TrainingFailure, match="of turns after 2 steps, not 90%"):
        warmed_up(replace(quick, target=0.9, max_steps=2))


def test_runs_are_seed_by_seed_with_names_of_their_own() -> None:
    runs = runs_of(Study(seeds=2, first_seed=5, lrs=(1e-4, 3e-4)))
    assert len({run.name for run in runs}) == len(runs) == 2 * 4 * 3 * 2
    assert [run.settings["seed"] for run in runs] == [5] * 24 + [6] * 24


def test_the_study_trains_restarts_and_reports(tmp_path: Path) -> None:
    small = Study(arms=("gspo", "token"), turns=(2,), lrs=(1e-4,), seeds=1, rollouts=1, target=0.0)
    study = replace(small, out=tmp_path / "out", cache_dir=tmp_path / "cache")
    assert multi_turn.main(study) == 0
    lines = (study.out / "results.jsonl").read_text()
    assert len(lines.splitlines()) == 2
    assert multi_turn.main(study) == 0
    assert (study.out / "results.jsonl").read_text() == lines
    assert "| 2 | 0.0001 | token | 1 |" in (study.out / "table.md").read_text()
    assert (study.out / "curves.png").stat().st_size > 1000


def test_what_a_person_does_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--arms: expected some of gspo, token, .*, got ppo"):
        multi_turn.main(Study(out=tmp_path, arms=("gspo", "ppo")))
    with pytest.raises(UserError, match="has no finished run to report"):
        multi_turn.main(Study(out=tmp_path, report_only=True))
