"""LoRA: adapters alone are trained, saved and gone on with; the model that they are put into stays as it is, bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs.in_process import Paid
from support.runs.pictures import without_pictures
from support.runs.torch_trainers import make_trainer
from transformers import AutoModelForCausalLM, LlamaConfig

from integration.on_torch.adapters import add_adapter, frozen_fingerprint, load_adapter, trained
from integration.on_torch.checkpoint import load_state
from integration.on_torch.parallel.wrapping import OnePiece
from integration.on_torch.preparing import prepare
from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout, train
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.resuming import resume_options
from integration.options.sizes import WarmUp
from integration.tasks.task import Task

pytestmark = pytest.mark.slow
SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
IDS = torch.arange(12).reshape(2, 6)
TINY = Config(
    model="small", task="spell_backward", task_args=("min_word_len=3", "max_word_len=4"), train_size=200, prompts_per_rollout=2,
    group_size=4, mini_batches=2, max_new_tokens=6, eval_prompts=6, eval_samples=2, rollouts=3, checkpoint_every=1, lr=1e-2,
    lr_warm_up=0, lora_rank=2, threads=1, warm_up=WarmUp(target=0.0, max_steps=30, layers=1, hidden=16),
)  # fmt: skip


def adapted(task: Task, folder: Path, **options: Any) -> Trainer:
    """A trainer of adapters, and half of the answers right."""
    trainer = make_trainer(task, folder, lora_rank=3, lr_warm_up=0, **options)
    add_adapter(trainer.model, trainer.config)
    trainer.optimizer = torch.optim.AdamW(trained(trainer.model), lr=1e-2, weight_decay=0.0)
    coin = iter(range(10**6))
    trainer.task = dataclasses.replace(task, verifier=Paid(lambda _: float(next(coin) % 2)))
    return trainer


def test_new_adapters_change_nothing_and_the_script_takes_the_model(task: Task, tmp_path: Path) -> None:
    plain = make_trainer(task, tmp_path)
    trainer = adapted(task, tmp_path)
    assert torch.equal(trainer.model(input_ids=IDS).logits, plain.model(input_ids=IDS).logits)
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert names
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name or "embed" in name for name in names)
    layers = [name for name, m in plain.model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name]
    assert len(names) == 2 * len(layers), "every linear layer has an A and a B"
    require_agreement(trainer.model, trainer.sampler, trainer.task.train[:8])
    again = adapted(task, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(trained(trainer.model), trained(again.model), strict=True)), (
        "drawn by the seed"
    )


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}, {"dtype": "bfloat16"}], ids=str)
def test_a_rollout_moves_adapters_alone(task: Task, tmp_path: Path, options: dict[str, Any]) -> None:
    trainer = adapted(task, tmp_path, **options)
    before = copy.deepcopy(trainer.model.state_dict())
    row = one_rollout(trainer)
    assert row["grad_norm"] > 0
    moved = {name for name, now in trainer.model.state_dict().items() if not torch.equal(now, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert trainer.model.get_output_embeddings().weight.grad is None, "the frozen head has no gradient to keep"


def test_a_checkpoint_is_the_adapter_and_goes_on_where_it_was(task: Task, tmp_path: Path) -> None:
    whole, stopped, again = (adapted(task, tmp_path / name) for name in ("whole", "stopped", "again"))
    for trainer in (whole, stopped):
        one_rollout(trainer)
    stopped.step = 1
    stopped.save()
    (checkpoint,) = stopped.folder.checkpoints()
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert not (checkpoint / "model.safetensors").exists()
    base = make_trainer(task, tmp_path).model
    load_adapter(base, checkpoint)
    again.model, again.passes = base, OnePiece(base)
    again.sampler = dataclasses.replace(again.sampler, model=base)
    again.optimizer = torch.optim.AdamW(trained(base), lr=1e-2, weight_decay=0.0)
    again.restore(load_state(checkpoint, base, again.optimizer, again.ranks))
    whole.step = 1
    for trainer in (whole, again):
        coin = iter(range(10**6))
        trainer.task = dataclasses.replace(task, verifier=Paid(lambda _, coin=coin: float(next(coin) % 2)))
        one_rollout(trainer)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, base.state_dict()[name]), name


def test_a_run_is_resumed_bit_exactly_and_transformers_loads_what_it_leaves(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, cache_dir=tmp_path / "cache", run_dir=tmp_path / "whole")
    assert train(config) == 0
    with without_pictures():
        assert train(dataclasses.replace(config, rollouts=2, run_dir=tmp_path / "part")) == 0
        assert train(resume_options(tmp_path / "part", cache_dir=config.cache_dir, rollouts=3)) == 0
    lasts = [tmp_path / name / "checkpoints" / "000003" for name in ("whole", "part")]
    weights = [(last / "adapter_model.safetensors").read_bytes() for last in lasts]
    assert weights[0] == weights[1]
    made = json.loads((lasts[0] / "adapter_config.json").read_text())
    assert (made["r"], made["lora_alpha"]) == (2, 4)
    loaded = AutoModelForCausalLM.from_pretrained(lasts[0], dtype=torch.float32)
    assert any("lora_" in name for name, _ in loaded.named_parameters())


def test_adapters_do_not_go_on_in_other_weights_than_they_were_trained_in(task: Task, tmp_path: Path) -> None:
    trainer = adapted(task, tmp_path)
    trainer.frozen = frozen_fingerprint(trainer.model)
    state = trainer.state()
    one_rollout(trainer)
    assert frozen_fingerprint(trainer.model) == trainer.frozen, "training leaves them as they are"
    trainer.restore(state)
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if not p.requires_grad)[0, 0] += 1e-6
    trainer.frozen = frozen_fingerprint(trainer.model)
    with pytest.raises(UserError, match=r"^--resume: the weights of --model .* the adapters of this run were trained on"):
        trainer.restore(state)
    assert "frozen" in prepared_state(tmp_path), "the script writes it down"


def prepared_state(folder: Path) -> dict[str, Any]:
    """Of a new run with adapters."""
    return prepare(dataclasses.replace(TINY, cache_dir=folder / "cache", run_dir=folder / "new")).state()


def test_layers_that_cannot_be_adapted_are_named() -> None:
    class Odd(torch.nn.Module):
        """No model of transformers."""

        def add_adapter(self, *_: Any, **__: Any) -> None:
            """As peft does."""
            raise ValueError("Target modules not found\nmore")

    with pytest.raises(UserError, match=r"^--lora-rank: Odd takes no such adapters: Target modules not found$"):
        add_adapter(Odd(), dataclasses.replace(TINY))


def test_options_that_miss_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^--lora-alpha: scales adapters; give them a rank"):
        Config(lora_alpha=4)
    monkeypatch.setattr("integration.options.checks.find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(UserError, match=r"^--lora-rank: peft is not installed"):
        Config(lora_rank=4)


def test_drawing_adapters_leaves_the_callers_random_numbers_alone_and_the_seed_chooses_them() -> None:
    def drawn(seed: int, **options: Any) -> list[torch.Tensor]:
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
        before = torch.get_rng_state()
        add_adapter(model, dataclasses.replace(TINY, seed=seed, **options))
        assert torch.equal(torch.get_rng_state(), before)
        return trained(model)

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("given", "expected"), [(None, 4), (1, 1), (6, 6)])
def test_alpha_is_twice_the_rank_or_as_given(given: int | None, expected: int) -> None:
    """The output moves by α/r B A x."""
    model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    layer, x = model.model.layers[0].mlp.down_proj, torch.ones(1, SIZES["intermediate_size"])
    plain = layer(x)
    add_adapter(model, dataclasses.replace(TINY, lora_alpha=given))
    layer = model.model.layers[0].mlp.down_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.fill_(0.5)
    torch.testing.assert_close(layer(x), plain + expected / 2 * (x @ a.T @ b.T))


def test_a_checkpoint_that_holds_no_adapters_is_said_to(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES))
    with pytest.raises(UserError, match=r"^--lora-rank: LlamaForCausalLM takes no such adapters: "):
        load_adapter(model, tmp_path)
