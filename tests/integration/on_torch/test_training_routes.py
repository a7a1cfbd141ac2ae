"""Training a mixture of experts: whose routes each pass takes, with engines that agree with the trainer and that do not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gspo_torch import Routes, record_routes
from support.runs.in_process import Paid
from support.runs.moes import checkpointing, watched
from support.runs.torch_trainers import make_trainer, response_logp

from gspo_core import GSPO, Padded
from gspo_core.metrics import left_out_metrics
from gspo_core.planning import Plan
from integration.on_torch.batches import mini_batch
from integration.on_torch.passes import Old, old_pass, update_pass
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout, update
from integration.shared.disagreement import Flips
from integration.shared.measure import Rollup
from integration.tasks.task import Task

NOISY: dict[str, Any] = {"router_noise": 0.3}


def moe(task: Task, folder: Path, **options: Any) -> Trainer:
    """A trainer of a small random mixture; half of the answers right, or no response of it has an advantage."""
    trainer = make_trainer(task, folder, model="small-moe", **options)
    coin = iter(range(10**6))
    trainer.task = dataclasses.replace(task)
    trainer.task.verifier = Paid(lambda _: float(next(coin) % 2))
    return trainer


def routes_of(trainer: Trainer, batch: Responses) -> Routes:
    """Of a teacher-forced pass."""
    with torch.no_grad(), record_routes(trainer.model) as routes:
        response_logp(trainer.model, batch, 1.0)
    return routes


@pytest.mark.slow
def test_routes_from_sampling_are_those_of_a_teacher_forced_pass(task: Task, tmp_path: Path) -> None:
    """In the padded layout of the batch and of any micro-batch; the token that was drawn last has none."""
    trainer = moe(task, tmp_path, routing_replay="r3")
    whole = trainer.draw(task.train[:4])
    lengths = whole.mask.sum(-1)
    assert lengths.min() < lengths.max()
    assert (whole.prompt_mask == 0).any()
    narrow = whole.rows(whole.prompt_mask.sum(-1).argsort()[:5])
    assert narrow.prompt_mask.shape[1] < whole.prompt_mask.shape[1], "no padding is cut away"
    for batch in (whole, narrow, whole.rows(lengths.argsort()[:5])):
        assert batch.routes is not None
        fed = batch.mask & (torch.arange(batch.mask.shape[1]) < batch.mask.sum(-1, keepdim=True) - 1)
        assert torch.equal(batch.routes.routed, torch.cat([batch.prompt_mask > 0, fed], 1))
        there, own = batch.routes.routed, routes_of(trainer, batch)
        assert torch.equal(batch.routes.experts[:, there], own.experts[:, there])
        assert len(own.experts[0][there].unique()) > 2, "every token goes to the same experts"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_samplers_log_probs_are_the_trainers_where_the_engines_agree(
    task: Task, tmp_path: Path, temperature: float
) -> None:
    trainer = moe(task, tmp_path, temperature=temperature, routing_replay="r3")
    assert trainer.engine is not None
    batch = dataclasses.replace(trainer.engine.sampler, keep_logp=True).draw(task.train[:4], 4, trainer.sampling)
    assert batch.logp is not None
    # float32 passes with and without a cache: sums of about a hundred terms of order one
    assert torch.allclose(batch.logp, response_logp(trainer.model, batch, temperature).detach(), atol=1e-4, rtol=0)
    assert (batch.logp[~batch.mask] == 0).all()
    assert (batch.logp[batch.mask] < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"routing_replay": "r2"},
        {"routing_replay": "r3", **NOISY},
        {"routing_replay": "r3", "micro_batch_size": 3, "sampler_dtype": "bfloat16"},
        {"routing_replay": "r3", "dtype": "bfloat16", **NOISY, "sampler_correction": "sequence-tis"},
        {"routing_replay": "r2", "dtype": "bfloat16", **NOISY, "micro_batch_size": 3},
    ],
)
def test_at_unchanged_weights_every_log_ratio_is_exactly_zero(task: Task, tmp_path: Path, options: dict[str, Any]) -> None:
    """And at weights that move it is not."""
    row = one_rollout(moe(task, tmp_path, lr=0.0, **options))
    assert len(row["log_s"]) == 16
    assert set(row["log_s"]) == {0.0}
    assert row["grad_norm"] > 0
    assert any(one_rollout(moe(task, tmp_path, lr_warm_up=0, **options))["log_s"])


@pytest.mark.parametrize("replay", ["none", "r2", "r3"])
def test_which_experts_each_pass_takes(task: Task, tmp_path: Path, replay: str) -> None:
    """With a noisy engine. R3: the engine's in both passes; R2: free in the first, and those again; none: free in both."""
    trainer, rollup = moe(task, tmp_path, routing_replay=replay, **NOISY), Rollup(GSPO)
    batch = trainer.draw(task.train[:4])
    assert batch.routes is not None
    free = routes_of(trainer, batch)
    with watched(trainer.model) as first:
        old = old_pass(trainer, batch, rollup)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.2 * parameter.std() * torch.randn(parameter.shape, generator=trainer.shuffling))
    moved = routes_of(trainer, batch)
    with watched(trainer.model) as second, update_pass(trainer, batch, old, rollup):
        response_logp(trainer.model, batch, 1.0).sum().backward()
    there = batch.routes.routed
    wanted = {"none": (free, moved), "r2": (free, free), "r3": (batch.routes, batch.routes)}[replay]
    for used, routes in zip((first, second), wanted, strict=True):
        for layer, experts in enumerate(used):
            assert torch.equal(experts.reshape(*there.shape, 2)[there], routes.experts[layer][there].long())
    assert (batch.routes.flips(free) > 0.02).all(), "the noise changes no expert"
    assert (free.flips(moved) > 0.02).all(), "nor does the step"
    rollup.add_step(1.0, left_out_metrics(GSPO, torch.zeros(16), Padded(batch.mask)), skipped=False)
    row = rollup.row()
    assert all(0.02 < share < 1 for share in (*row["flips_engine"], *row["flips_update"][0]))


def test_shares_of_flips_are_over_all_slots_of_a_rollout() -> None:
    """Parts of three and of one routed tokens: {0, 1} to {0, 2} in the first, and nothing in the second: 3 of 8 slots."""
    experts, flips, none = torch.tensor([0, 1], dtype=torch.uint8), Flips(), Flips()
    for width, other in ((3, 2), (1, 1)):
        there = torch.ones(1, width, dtype=torch.bool)
        routes = Routes(experts.expand(1, 1, width, 2), there, 4)
        flips.add(routes, Routes(torch.tensor([other, 0], dtype=torch.uint8).expand(1, 1, width, 2), there, 4))
    assert flips.shares() == [0.375]
    assert none.shares() is None
    none.add(routes, routes)
    assert none.shares() == [0.0]


def gradients(trainer: Trainer, responses: Responses) -> list[torch.Tensor]:
    """Of one update over 16 responses, some without an advantage, at weights that have moved since the old log-probs."""
    advantages = torch.randn(16, generator=torch.Generator().manual_seed(1))
    advantages[::5] = 0
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), torch.arange(16))
    olds = [old_pass(trainer, part, Rollup(trainer.objective)) for part, _ in batch.parts]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1e-2 * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    rollup = Rollup(trainer.objective)
    update(trainer, batch, olds, rollup)
    assert any(x != 0 for x in rollup.row()["log_s"])
    return [parameter.grad.clone() for parameter in trainer.model.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["r2", "r3"])
def test_micro_batches_add_up_and_checkpointing_changes_nothing(task: Task, tmp_path: Path, replay: str) -> None:
    results = []
    for micro_batch_size, checkpoints, taken in (
        (None, False, replay),
        (3, False, replay),
        (3, True, replay),
        (3, False, "none"),
    ):
        trainer = moe(
            task, tmp_path, routing_replay=taken, micro_batch_size=micro_batch_size, lr=0.0, clip_high=0.5, **NOISY
        )  # fmt: skip
        responses = trainer.draw(task.train[:4])
        if checkpoints:
            trainer.model.train()
            checkpointing(trainer.model, reentrant=False)
        results.append(gradients(trainer, responses))
    whole, *others, free = results
    norm = float(torch.stack([g.norm() for g in whole]).norm())
    assert norm > 1e-3
    for parts in others:
        for a, b in zip(whole, parts, strict=True):
            # float32 sums in another order, of about a thousand terms
            assert torch.allclose(a, b, atol=1e-5 * norm, rtol=1e-3)
    if replay == "r3":
        off = torch.stack([(a - b).norm() for a, b in zip(whole, free, strict=True)]).norm()
        assert off > 0.01 * norm, "the routes make no difference"


def further(responses: Responses, by: float = 0.6) -> torch.Tensor:
    """What brings the engines so far apart that bounds bind."""
    return by * torch.randn(responses.mask.shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("objective", "correction", "by"),
    [
        ("gspo", "mis", 0.6),
        ("gspo", "sequence-tis", 0.6),
        ("gspo-token", "tis", 0.6),
        ("grpo", "icepop", 0.6),
        ("gspo", "reject-mean", 0.2),
        ("gspo-token", "reject-absolute", 0.2),
        ("gspo", "reject-k3", 0.2),
        ("grpo", "veto", 6.0),
    ],
)
def test_the_loss_is_weighted_as_a_scalar_loop_says(
    task: Task, tmp_path: Path, objective: str, correction: str, by: float
) -> None:
    """Through autograd of a loss that is written out here; at the old weights, where every ratio is 1 and none is clipped."""
    options = {"objective": objective, "sampler_correction": correction, "max_grad_norm": 1e9, "lr": 0.0}
    trainer = moe(task, tmp_path, **options, **NOISY)
    responses = trainer.draw(task.train[:4])
    assert responses.logp is not None
    responses = dataclasses.replace(responses, logp=responses.logp + further(responses, by))
    advantages = torch.randn(16, generator=torch.Generator().manual_seed(1))
    batch = mini_batch(trainer, responses, advantages, Plan(advantages), torch.arange(16))
    olds = [old_pass(trainer, part, Rollup(trainer.objective)) for part, _ in batch.parts]
    update(trainer, batch, olds, Rollup(trainer.objective))
    ours = [parameter.grad.clone() for parameter in trainer.model.parameters()]

    trainer.model.zero_grad()
    logp, total, weights = response_logp(trainer.model, responses, 1.0), torch.zeros(()), []
    for row in range(16):
        length = int(responses.mask[row].sum())
        gaps = [float(logp[row, t].detach() - responses.logp[row, t]) for t in range(length)]
        whole = float(torch.tensor(gaps).double().sum().exp())
        for t in range(length):
            each = float(torch.tensor(gaps[t]).double().exp())
            weight = {
                "mis": whole if 0.5 <= whole <= 2 else 0.0,
                "sequence-tis": min(whole, 2.0),
                "tis": min(each, 2.0),
                "icepop": each if 0.5 <= each <= 5 else 0.0,
                "reject-mean": float(0.9 <= math.exp(sum(gaps) / length) <= 1.1),
                "reject-absolute": float(sum(math.exp(abs(d)) for d in gaps) / length <= 1.2),
                "reject-k3": float(sum(math.exp(d) - 1 - d for d in gaps) / length <= 0.02),
                "veto": float(min(gaps) >= math.log(1e-4)),
            }[correction]
            weights.append(weight)
            total = total - weight * advantages[row] * logp[row, t] / length / 16
    total.backward()
    assert min(weights) < 0.7, "no weight is small"
    assert 0.0 in weights or max(weights) == 2.0, "no weight is bounded"
    assert max(weights) > 0.7, "everything is rejected"
    norm = float(torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm())
    for mine, parameter in zip(ours, trainer.model.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, atol=1e-5 * norm, rtol=1e-3)


def test_without_a_correction_nothing_is_weighted_and_the_gap_is_measured_all_the_same(task: Task, tmp_path: Path) -> None:
    trainer, rollup = moe(task, tmp_path, **NOISY), Rollup(GSPO)
    batch = trainer.draw(task.train[:4])
    assert batch.logp is not None
    batch = dataclasses.replace(batch, logp=batch.logp + further(batch))
    old = old_pass(trainer, batch, rollup)
    assert old.weight is None
    advantage = torch.ones(16)
    assert old.weighted(advantage, None) is advantage  # type: ignore[arg-type]  # no batch is needed
    assert batch.logp is not None
    rollup.add_step(1.0, left_out_metrics(GSPO, torch.zeros(16), Padded(batch.mask)), skipped=False)
    row = rollup.row()
    gaps = [float((old.logp[i] - batch.logp[i])[batch.mask[i]].double().sum()) for i in range(16)]
    products = [torch.tensor(gap).exp().item() for gap in gaps]
    assert max(products) > 2.0, "no weight would be truncated"
    assert row["sampler_raw_mean"] == pytest.approx(sum(products) / 16, rel=1e-4)
    assert row["sampler_ess"] == pytest.approx(sum(products) ** 2 / 16 / sum(p * p for p in products), rel=1e-4)
    assert 0 < row["sampler_ess"] < 1
    assert row["sampler_token_std"] > 0.01
    assert row["sampler_weight_mean"] == row["sampler_raw_mean"]
    assert row["sampler_truncated"] == row["sampler_rejected"] == 0


@pytest.mark.slow
def test_the_copy_that_samples_takes_the_weights_of_every_step(task: Task, tmp_path: Path) -> None:
    trainer = moe(task, tmp_path, sampler_dtype="bfloat16", lr=0.1, lr_warm_up=0)
    assert trainer.engine is not None
    copy = trainer.engine.sampler.model
    assert copy is not trainer.model
    one_rollout(trainer)
    pairs = list(zip(copy.parameters(), trainer.model.parameters(), strict=True))
    assert not all(torch.equal(mine, current.bfloat16()) for mine, current in pairs), "no step was taken"
    row = one_rollout(trainer)
    assert 0 < abs(row["sampler_log_s_mean"]) < 1
    assert 0 < row["mismatch_noise_floor"] < 1
    trainer.draw(task.train[:1])
    assert all(torch.equal(mine, current.bfloat16()) for mine, current in pairs)


def test_a_dense_model_has_neither_routes_nor_flips(task: Task, tmp_path: Path) -> None:
    trainer = make_trainer(task, tmp_path)
    assert trainer.engine is None
    batch = trainer.draw(task.train[:2])
    assert (batch.logp, batch.routes) == (None, None)
    assert old_pass(trainer, batch, Rollup(GSPO))[1:] == Old(batch.mask)[1:]
    assert not {"flips_engine", "flips_update", "sampler_ess"} & set(one_rollout(trainer))
