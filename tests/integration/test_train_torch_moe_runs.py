"""Whole runs of a mixture of experts: they go on bit-exactly, and say what cannot be done."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs.torch_trainers import make_trainer

from integration.on_torch import training
from integration.on_torch.preparing import prepare
from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout, train
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.resuming import resume_options
from integration.options.sizes import Experts, WarmUp
from integration.shared.interrupt import Stopping
from integration.tasks.task import Task, load_task

pytestmark = pytest.mark.slow

TINY = Config(
    model="small-moe",
    task="count_bits",
    task_args=("min_n=1", "max_n=63"),
    train_size=40,
    warm_up=WarmUp(target=0.0, check_every=1, check_prompts=8, hidden=16, layers=2),
    experts=Experts(count=4, top_k=1),
    eval_prompts=4,
    eval_samples=1,
    prompts_per_rollout=4,
    group_size=4,
    max_new_tokens=4,
    threads=1,
    lr=1e-2,
    reward="score",
    rollouts=5,
    checkpoint_every=2,
    routing_replay="r3",
    router_noise=0.3,
    sampler_dtype="bfloat16",
    sampler_correction="mis",
)


@pytest.fixture
def _own_signals() -> Iterator[None]:
    """A run takes Ctrl-C and SIGTERM for itself."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def lines(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics without wall-clock times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


@pytest.mark.usefixtures("_own_signals")
def test_a_run_that_died_goes_on_bit_exactly_with_noise_and_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, cache_dir=tmp_path / "cache", run_dir=tmp_path / "whole")
    assert train(config) == 0

    def die_in_the_fourth(trainer: Trainer, stop: Stopping) -> dict[str, Any]:
        if trainer.step == 3:
            raise MemoryError
        return one_rollout(trainer, stop)

    monkeypatch.setattr(training, "one_rollout", die_in_the_fourth)
    died = dataclasses.replace(config, run_dir=tmp_path / "died")
    with pytest.raises(MemoryError):
        train(died)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "died" / "checkpoints").iterdir()) == ["000002"]
    assert train(resume_options(tmp_path / "died", cache_dir=config.cache_dir)) == 0
    assert lines(tmp_path / "died") == lines(tmp_path / "whole")
    weights = [(tmp_path / name / "checkpoints/000005/model.safetensors").read_bytes() for name in ("died", "whole")]
    assert weights[0] == weights[1]
    last = lines(tmp_path / "whole")[-1]
    assert any(last["log_s"]), "nothing was learned"
    assert any(share > 0 for share in last["flips_engine"]), "the engine agrees"
    sizes = json.loads((tmp_path / "whole/checkpoints/000005/config.json").read_text())
    wanted = {"hidden_size": 16, "num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 1}
    assert {name: sizes[name] for name in wanted} == wanted
    assert sizes["moe_intermediate_size"] == 48  # three hidden sizes, as the dense model's layer


@pytest.fixture(scope="module")
def task() -> Task:
    """For a dense model's vocabulary."""
    return load_task("count_bits", TINY.task_args, seed=0, train_size=40, held_out_size=4)


def test_routers_where_there_are_none_are_refused(task: Task, tmp_path: Path) -> None:
    """Of a model whose kind only its files tell."""
    folder = tmp_path / "dense"
    trainer = make_trainer(task, tmp_path)
    trainer.model.save_pretrained(folder)
    trainer.sampler.prompter.tokenizer.save_pretrained(folder)
    plain = dataclasses.replace(TINY, model=str(folder), warm_up=WarmUp(), experts=Experts(), sampler_dtype=None)
    plain = dataclasses.replace(plain, sampler_correction="none", cache_dir=tmp_path, run_dir=tmp_path / "run")
    for options, sentence in (
        ({"router_noise": 0.0}, f"--routing-replay: --model {folder} has no routers; use a mixture of experts"),
        ({"routing_replay": "none"}, f"--router-noise: --model {folder} has no routers"),
    ):
        with pytest.raises(UserError, match=f"^{sentence}"):
            prepare(dataclasses.replace(plain, **options))
    assert not (tmp_path / "run").exists()
