"""--kl in the PyTorch script: the penalty and its gradient are those of the formula, against the model the run started from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs.in_process import Paid
from support.runs.pictures import without_pictures
from support.runs.scripts import rows
from support.runs.torch_trainers import CPU, make_trainer

from gspo_core.planning import Plan
from integration.on_torch.batches import mini_batch
from integration.on_torch.passes import old_pass
from integration.on_torch.reference import Reference
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout, train, update
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.resuming import resume_options
from integration.rewards.verdicts import Verdict
from integration.shared.measure import Rollup
from integration.tasks.task import Task

pytestmark = pytest.mark.slow
BETA = 0.3


def with_reference(task: Task, folder: Path, **options: Any) -> Trainer:
    """A trainer whose weights are the reference's."""
    trainer = make_trainer(task, folder, **options)
    trainer.model.save_pretrained(folder / "start")
    trainer.sampler.prompter.tokenizer.save_pretrained(folder / "start")
    start = dataclasses.replace(trainer.config, model=str(folder / "start"))
    trainer.reference = Reference(start, task, CPU)
    return trainer


def distributions(model: Any, part: Responses) -> torch.Tensor:
    """[N, T, V] log-probs in float64, from whole logits."""
    ids = torch.cat([part.prompt_ids, part.tokens], 1)
    attention = torch.cat([part.prompt_mask, part.mask.long()], 1)
    where = (attention.cumsum(-1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=attention, position_ids=where).logits.double()
    return torch.log_softmax(logits, -1)[:, part.prompt_ids.shape[1] - 1 : -1]


def move(trainer: Trainer) -> None:
    """Away from the reference."""
    with torch.no_grad():
        for i, parameter in enumerate(trainer.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
            parameter.add_(0.4 * noise * parameter.abs().mean())


def log_probs(model: Any, part: Responses) -> torch.Tensor:
    """[N, T] those of the responses' tokens."""
    return distributions(model, part).gather(-1, part.tokens[..., None])[..., 0]


def formula(name: str, logp: torch.Tensor, ref: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over responses, on policy, as an expression whose gradient autograd finds."""
    x = (ref - logp) * mask
    lengths = mask.sum(-1)
    if name == "sequence":  # the gradient of w (eˣ − 1 − x), w = exp(log π − sg(log π)), of whole responses
        x = x.sum(-1)
        ratio = ((logp - logp.detach()) * mask).sum(-1).exp()
        return (ratio * (x.exp() - 1 - x)).mean()
    ratio = (logp - logp.detach()).exp()
    terms = {"k1": -x, "k2": x**2 / 2, "k3": x.exp() - 1 - x, "token": ratio * (x.exp() - 1 - x)}[name]
    return ((terms * mask).sum(-1) / lengths).mean()


@pytest.mark.parametrize("objective", ["gspo", "grpo"])
@pytest.mark.parametrize("name", ["k1", "k2", "k3", "token", "sequence"])
def test_an_update_has_the_gradient_of_policy_loss_and_penalty(task: Task, tmp_path: Path, name: str, objective: str) -> None:
    """On policy, so that the policy loss is −mean A · (mean log-prob), over all responses, with and without an advantage."""
    trainer = with_reference(task, tmp_path, kl=name, kl_coefficient=BETA, objective=objective, micro_batch_size=5)
    move(trainer)
    part = trainer.sampler.draw(task.train[:4], 4, trainer.sampling)
    advantages = torch.randn(16, generator=torch.Generator().manual_seed(1))
    advantages[::3] = 0
    planned = Plan(advantages, loss_has_other_terms=True)
    batch = mini_batch(trainer, part, advantages, planned, torch.arange(16))
    assert sum(len(piece.mask) for piece, _ in batch.parts) == 16
    assert batch.left_out is None
    rollup = Rollup(trainer.objective)
    olds = [old_pass(trainer, piece, rollup) for piece, _ in batch.parts]
    found: dict[str, torch.Tensor] = {}

    def keep() -> None:
        found.update({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})

    trainer.optimizer.step = keep  # type: ignore[assignment,method-assign]  # a spy
    trainer.config = dataclasses.replace(trainer.config, max_grad_norm=1e9)
    update(trainer, batch, olds, rollup)

    trainer.model.zero_grad()
    mask = part.mask
    logp = log_probs(trainer.model, part)
    with torch.no_grad():
        assert trainer.reference is not None
        ref = log_probs(trainer.reference.model, part)
    assert float(((ref - logp.detach()) * mask).abs().max()) > 1e-2, "the weights have not moved away from the reference"
    kl = formula(name, logp, ref, mask)
    gain = (advantages.double() * (logp * mask).sum(-1) / mask.sum(-1)).mean()
    (BETA * kl - gain).backward()
    largest = max(float(p.grad.abs().max()) for p in trainer.model.parameters() if p.grad is not None)
    for n, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None
        # float32 passes in batches of other shapes; about a hundred terms of order one
        torch.testing.assert_close(found[n], parameter.grad, atol=2e-5 * largest, rtol=0, msg=lambda m, n=n: f"{n}: {m}")
    row = rollup.row()
    # float32 log-probs of about ten, off by a few units of rounding, in an estimate that is linear in them or flatter
    assert row["kl"] == pytest.approx(float(kl.detach()), abs=1e-5)
    assert abs(row["kl"]) > 1e-3
    assert len(row["log_s"]) == int((advantages != 0).sum())
    with torch.no_grad():
        every = distributions(trainer.model, part)
    entropy = -(every.exp() * every).sum(-1)[mask].mean()
    k3 = formula("k3", logp.detach()[mask][None], ref[mask][None], mask[mask][None])
    assert row["entropy_per_token"] == pytest.approx(float(entropy), abs=1e-5)
    assert row["reference_kl_k3_per_token"] == pytest.approx(float(k3), abs=1e-5)
    assert min(row["entropy_per_token"], row["reference_kl_k3_per_token"]) > 1e-3
    assert row["sequences"] == 16


@pytest.mark.parametrize("name", ["k3", "sequence"])
def test_at_the_reference_the_estimate_is_exactly_zero_and_every_ratio_one(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trainer = with_reference(task, tmp_path, kl=name, kl_coefficient=BETA, lr=0.0)
    coin = iter(range(10**6))
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: float(next(coin) % 4 == 0)))
    row = one_rollout(trainer)
    assert (row["kl"], row["max_abs_log_s"]) == (0.0, 0.0)
    assert row["grad_norm"] > 0


def test_responses_without_an_advantage_have_a_penalty(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = with_reference(task, tmp_path, kl="token", kl_coefficient=BETA)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.mul_(1.5)
    monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _: 0.0))
    row = one_rollout(trainer)
    assert (row["no_advantage"], row["log_s"]) == (1.0, [])
    assert row["kl"] > 0
    assert row["grad_norm"] > 0


def test_a_coefficient_of_zero_measures_and_changes_nothing(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, weights = [], []
    for folder, options in (("without", {}), ("with", {"kl": "token", "kl_coefficient": 0.0})):
        trainer = make_trainer(task, tmp_path) if not options else with_reference(task, tmp_path / folder, **options)
        coin = iter(range(10**6))
        monkeypatch.setattr(trainer.task, "verifier", Paid(lambda _, coin=coin: float(next(coin) % 2)))
        rows.append([one_rollout(trainer) for _ in range(2)])
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert "kl" not in rows[0][1]
    assert rows[1][1]["kl"] > 0


def test_a_run_with_a_penalty_is_resumed_bit_exactly(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A random model answers nothing, so that it would have no advantage and never leave its reference.
    monkeypatch.setattr(Task, "verdicts", lambda _self, _examples, texts: [Verdict(float(len(text) % 2)) for text in texts])
    start = with_reference(task, tmp_path, kl="k3", kl_coefficient=BETA).reference
    assert start is not None
    options: dict[str, Any] = {
        "model": str(tmp_path / "start"), "task": "count_bits", "task_args": ("min_n=1", "max_n=9"), "train_size": 9,
        "prompt": "plain", "kl": "token", "kl_coefficient": 0.1, "lr": 1e-3, "max_new_tokens": 4, "prompts_per_rollout": 2,
        "group_size": 4, "mini_batches": 2, "eval_prompts": 2, "eval_samples": 1, "checkpoint_every": 1, "threads": 1,
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(Config(**options, rollouts=3, run_dir=whole)) == 0
    with without_pictures():
        assert train(Config(**options, rollouts=1, run_dir=parts)) == 0
        assert train(resume_options(parts, rollouts=3)) == 0
    assert rows(whole) == rows(parts)
    assert rows(whole)[-1]["kl"] > 0
    weights = [(run / "checkpoints" / "000003" / "model.safetensors").read_bytes() for run in (whole, parts)]
    assert weights[0] == weights[1]


def test_a_resumed_run_refuses_another_reference(task: Task, tmp_path: Path) -> None:
    trainer = with_reference(task, tmp_path, kl="k3", kl_coefficient=BETA)
    state = trainer.state()
    trainer.restore(state)
    with pytest.raises(UserError, match="are the reference of --kl"):
        trainer.restore({**state, "reference": "0" * 64})
