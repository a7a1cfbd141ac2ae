"""One training step: sampling, log-probs and the update agree with the model's own forward pass."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from support.budgets import assert_within, float32_budget
from support.runs.in_process import Paid
from support.runs.torch_trainers import draw, make_trainer, response_logp

from gspo_core.planning import Plan
from integration.on_torch.batches import MiniBatch, mini_batch
from integration.on_torch.passes import Old
from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.sampling.growing import Cached
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout, update
from integration.options.choices import CLIP_RANGES, OBJECTIVES
from integration.options.errors import TrainingFailure
from integration.shared.evaluation import evaluate
from integration.shared.loop import judge
from integration.shared.measure import Rollup
from integration.shared.pretrained import compute_in
from integration.tasks.task import Task


def gradients(trainer: Trainer, responses: Responses, advantages: torch.Tensor, old: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of one update, the optimizer being still."""
    rows = torch.arange(len(advantages))
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), rows)
    live = rows[advantages != 0]
    size = trainer.config.micro_batch_size or len(rows)
    pieces = live.split(size) if len(live) else ()
    olds = [Old(old[piece][:, : part.mask.shape[1]]) for piece, (part, _) in zip(pieces, batch.parts, strict=True)]
    update(trainer, batch, olds, Rollup(trainer.objective))
    return [parameter.grad.clone() for parameter in trainer.model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_and_left_out_responses_change_nothing(task: Task, tmp_path: Path, objective: str) -> None:
    results = []
    for micro_batch_size in (None, 3):
        own_range = {} if objective in CLIP_RANGES else {"clip_low": None, "clip_high": None}
        trainer = make_trainer(task, tmp_path, objective=objective, micro_batch_size=micro_batch_size, lr=0.0, **own_range)
        trainer.model.double()
        responses = draw(trainer)
        advantages = torch.randn(16, generator=torch.Generator().manual_seed(1))
        advantages[::5] = 0
        old = response_logp(trainer.model, responses, 1.0).detach()
        old = old + 0.02 * torch.randn(old.shape, generator=torch.Generator().manual_seed(2))
        results.append(gradients(trainer, responses, advantages, old))
    assert sum(float(g.norm()) for g in results[0]) > 1e-3
    for whole, parts in zip(*results, strict=True):
        # the LM head works in float32, whatever the model is in
        assert torch.allclose(whole, parts, atol=1e-6, rtol=1e-4)


def test_a_mini_batch_without_any_advantage_has_zero_gradients(trainer: Trainer) -> None:
    responses = draw(trainer)
    for gradient in gradients(trainer, responses, torch.zeros(16), torch.zeros(responses.mask.shape)):
        assert (gradient == 0).all()


def test_non_finite_gradients_are_skipped_counted_and_end_the_run(trainer: Trainer) -> None:
    parameter = next(trainer.model.parameters())
    handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
    weights = copy.deepcopy(trainer.model.state_dict())
    responses = draw(trainer)
    batch = mini_batch(trainer, responses, torch.ones(16), Plan(torch.ones(16)), torch.arange(16))
    old = [Old(response_logp(trainer.model, part, 1.0).detach()) for part, _ in batch.parts]
    rollup = Rollup(trainer.objective)
    for attempt in (1, 2):
        update(trainer, batch, old, rollup)
        assert trainer.bad_steps == attempt
    handle.remove()
    assert all(torch.equal(weights[name], value) for name, value in trainer.model.state_dict().items())
    update(trainer, batch, old, rollup)
    assert trainer.bad_steps == 0, "a good step forgives"
    assert rollup.row()["skipped_steps"] == 2
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    for _ in range(2):
        update(trainer, batch, old, rollup)
    with pytest.raises(TrainingFailure, match="3 gradients in a row were not finite, in rollout 1"):
        update(trainer, batch, old, rollup)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_log_prob_that_is_not_finite_skips_its_step(trainer: Trainer, value: float) -> None:
    """Also where the gradient is finite: the ratio to an old log-prob of +∞ is 0, and has none."""
    responses, rollup = draw(trainer), Rollup(trainer.objective)
    weights = copy.deepcopy(trainer.model.state_dict())
    batch = mini_batch(trainer, responses, torch.ones(16), Plan(torch.ones(16)), torch.arange(16))
    old = response_logp(trainer.model, batch.parts[0][0], 1.0).detach()
    old[0, 0] = value
    update(trainer, batch, [Old(old)], rollup)
    assert (trainer.bad_steps, trainer.optimizer_steps) == (1, 0)
    assert all(torch.equal(weights[name], now) for name, now in trainer.model.state_dict().items())
    row = rollup.row()
    assert row["skipped_steps"] == 1
    assert row["log_s"] == [], "nothing is known of responses whose step was skipped"
    json.dumps(row)


def test_logits_that_are_not_finite_end_the_run(trainer: Trainer) -> None:
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingFailure, match="logits are not finite"):
        draw(trainer)


def test_the_first_mini_batch_is_on_policy_and_later_ones_are_not(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of the answers right, or no response of a random model has an advantage.
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 2)))
    row = one_rollout(trainer)
    assert row["by_mini_batch"][0] == {"clip_fraction": 0.0, "log_s_rms": 0.0}
    assert all(part["log_s_rms"] > 0 for part in row["by_mini_batch"][1:])
    assert row["clip_low"] + row["clip_high"] == pytest.approx(row["clip_fraction"])
    assert len(row["log_s"]) == 16


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_rollout_with_every_preset_changes_the_weights(task: Task, tmp_path: Path, objective: str) -> None:
    trainer = make_trainer(task, tmp_path, objective=objective, clip_low=None, clip_high=None)
    coin = iter(range(10**6))
    trainer.task = dataclasses.replace(task, verifier=Paid(lambda _: float(next(coin) % 2)))
    before = copy.deepcopy(trainer.model.state_dict())
    row = one_rollout(trainer)
    assert row["skipped_steps"] == 0
    assert row["grad_norm"] > 0
    assert any(not torch.equal(before[name], now) for name, now in trainer.model.state_dict().items())


def test_dr_grpo_is_given_rewards_minus_their_mean(task: Task, tmp_path: Path) -> None:
    """Of its paper, while every other preset divides by the standard deviation, too."""
    examples = task.train[:4]
    for objective, wanted in (("dr-grpo", 0.75), ("gspo", 3**0.5)):
        trainer = make_trainer(task, tmp_path, objective=objective, clip_low=None, clip_high=None)
        coin = iter(range(10**6))
        trainer.task = dataclasses.replace(task, verifier=Paid(lambda _, coin=coin: float(next(coin) % 4 == 0)))
        assert judge(trainer, examples, ["x"] * 16).planned.advantage[0] == pytest.approx(wanted)


def test_a_rollout_that_teaches_nothing_says_why(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: 1.0))
    row = one_rollout(trainer)
    assert [finding["kind"] for finding in row["findings"]] == ["CONSTANT_GROUPS"]
    assert "None of 16 responses has an advantage" in row["findings"][0]["sentence"]
    assert (row["no_advantage"], row["constant_groups"], row["loss"], row["grad_norm"]) == (1.0, 1.0, 0.0, 0.0)
    assert (row["clip_fraction"], row["max_abs_log_s"], row["log_s"]) == (0.0, 0.0, [])


def test_bfloat16_passes_leave_weights_gradients_and_log_probs_in_float32(trainer: Trainer) -> None:
    batch = draw(trainer)
    exact = response_logp(trainer.model, batch, 1.0).detach()
    compute_in(trainer.model, torch.bfloat16)
    require_agreement(trainer.model, trainer.sampler, trainer.task.train[:4])
    assert trainer.sampler.draw(trainer.task.train[:2], 2, trainer.sampling).mask.any()
    rounded = response_logp(trainer.model, batch, 1.0)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded.detach()), "nothing was computed in bfloat16"
    # two layers of bfloat16 (2⁻⁸ a rounding) on logits of order one
    assert torch.allclose(exact, rounded.detach(), atol=0.1, rtol=0)
    rounded.sum().backward()
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in trainer.model.parameters())


def test_evaluation_does_not_touch_the_training_random_numbers(trainer: Trainer) -> None:
    before = trainer.sampling.get_state().clone()
    first = evaluate(trainer.task, trainer.sampler, samples=2, seed=5)
    assert torch.equal(before, trainer.sampling.get_state())
    assert first == evaluate(trainer.task, trainer.sampler, samples=2, seed=5)
    assert first == evaluate(trainer.task, trainer.sampler, samples=2, seed=5, batch=20)
    assert len(first.sampled) == len(first.greedy) == 10


@pytest.mark.parametrize("objective", ["gspo", "grpo"])
def test_responses_left_out_count_in_the_clip_fraction(task: Task, tmp_path: Path, objective: str) -> None:
    """The share of responses, or of tokens, which are those of the mini-batch and not of the responses that are run."""
    trainer = make_trainer(task, tmp_path, objective=objective)
    trainer.sampling.manual_seed(2)
    responses = draw(trainer)
    advantages = torch.zeros(16)
    advantages[:4] = 1
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), torch.arange(16))
    assert isinstance(batch, MiniBatch)
    assert len(batch.parts[0][0].mask) == 4
    (part, _), rollup = batch.parts[0], Rollup(trainer.objective)
    old = response_logp(trainer.model, part, 1.0).detach() - 0.1  # s = e^0.1 everywhere: above the range, and A > 0
    update(trainer, batch, [Old(old)], rollup)
    row = rollup.row()
    lengths = responses.mask.sum(-1)
    share = 0.25 if objective == "gspo" else float(lengths[:4].sum() / lengths.sum())
    assert objective == "gspo" or share != pytest.approx(0.25), "the shares of tokens and of responses are equal"
    assert [row[name] for name in ("clip_fraction", "clip_high", "clip_low")] == pytest.approx([share, share, 0.0])
    assert [part["clip_fraction"] for part in row["by_mini_batch"]] == pytest.approx([share])
    assert (row["grad_norm"], row["no_advantage"], row["sequences"]) == (0.0, 0.75, 16.0)
    assert row["response_length"] == pytest.approx(float(lengths.sum()) / 16)
    assert row["log_s_mean"] == pytest.approx(0.1, abs=1e-6), "responses that are not run have no log s"
    assert (row["lengths"], row["signs"]) == (lengths[:4].tolist(), [1] * 4)
    assert row["loss"] == pytest.approx(-1.01 / 4, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["gspo", "gspo-token", "grpo"])
def test_an_update_with_the_plan_is_the_update_without_it(task: Task, tmp_path: Path, objective: str) -> None:
    """Two steps, the second with a momentum and nothing to run: parameters as if every response had been run."""
    advantages = torch.randn(16, generator=torch.Generator().manual_seed(1))
    advantages[::3] = 0
    moves, runs = [], []
    for everything, wrong in ((False, False), (True, False), (False, True)):
        trainer = make_trainer(task, tmp_path / f"{everything}{wrong}", objective=objective, max_grad_norm=1e9, lr_warm_up=0)
        trainer.model.double()
        # Not AdamW, whose first step is that of the gradient's sign, whatever it was divided by.
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0, momentum=0.9)
        before = copy.deepcopy(list(trainer.model.parameters()))
        responses, run = draw(trainer), 0
        for values in (advantages, torch.zeros(16)):
            planned = Plan(values, loss_has_other_terms=everything)
            batch = mini_batch(trainer, responses, values, planned, torch.randperm(16, generator=trainer.shuffling))
            batch = dataclasses.replace(batch, denominator=batch.denominator - 1) if wrong else batch
            olds = [Old(response_logp(trainer.model, part, 1.0).detach() + 0.005) for part, _ in batch.parts]
            update(trainer, batch, olds, Rollup(trainer.objective))
            run += sum(len(part.mask) for part, _ in batch.parts)
        pairs = zip(trainer.model.parameters(), before, strict=True)
        moves.append(torch.cat([(new - old).detach().flatten() for new, old in pairs]))
        runs.append(run)
    assert runs == [10, 32, 10]
    kept, whole, wrong_denominator = moves
    largest = float(whole.abs().max())
    assert largest > 1e-4
    # The LM head is float32, over at most 16 responses of 6 tokens.
    budget = float32_budget(16 * 6, 0.01) * largest
    assert_within(kept, whole, budget)
    assert float((wrong_denominator - whole).abs().max()) > 10 * budget


def test_a_sampler_that_drifts_from_the_trainer_during_a_run_is_found(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a sliding window would that acts only on longer texts than those of the comparison before a run."""
    row = one_rollout(trainer)
    assert 0 < row["sampler_gap"] < 1e-4, "other kernels than the trainer's, and the same policy"
    step = Cached.step

    def shifted(self: Cached, going: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return 1.1 * step(self, going, token)

    monkeypatch.setattr(Cached, "step", shifted)
    row = one_rollout(trainer)
    assert row["sampler_gap"] > 2e-3
    assert "SAMPLER_GAP" in [finding["kind"] for finding in row["findings"]]


def test_a_rollout_in_which_nothing_stops_says_so(trainer: Trainer) -> None:
    assert one_rollout(trainer)["ended"] > 0
    trainer.sampler = dataclasses.replace(trainer.sampler, stop_ids=torch.empty(0, dtype=torch.int64))
    row = one_rollout(trainer)
    assert row["ended"] == 0.0
    assert "NOTHING_ENDS" in [finding["kind"] for finding in row["findings"]]
