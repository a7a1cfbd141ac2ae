"""A tenth of the families of transformers through the training script, and what the sweep finds if something is wrong.

The whole sweep is `python -m integration.model_zoo`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from gspo_torch import ModelHead

from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.sampling.reading import FASTEST, Reading
from integration.options.errors import UserError
from integration.tasks.task import Task
from integration.zoo import trial as trials
from integration.zoo.page import RECORD
from integration.zoo.sweep import families
from integration.zoo.trial import sweep_task, try_family

KINDS = {
    "plain": "llama",
    "cap": "gemma2",
    "scale": "granite",
    "bias": "phi",
    "layer before the head": "roberta",
    "recurrent": "qwen3_next",
    "own positions": "trocr",
    "mixture": "mixtral",
    "text of a multimodal one": "gemma3",
    "reads later tokens": "xlnet",
}
CHOSEN = sorted({*KINDS.values(), *families()[::19]})
"""Each kind once, and every nineteenth in the alphabet."""


@pytest.fixture(scope="module")
def task() -> Task:
    return sweep_task()


@pytest.mark.slow
@pytest.mark.parametrize("family", CHOSEN)
def test_a_tenth_of_the_families_is_what_the_record_says(task: Task, family: str) -> None:
    saved = json.loads(RECORD.read_text(encoding="utf-8"))
    expected = next(row for row in saved["families"] if row["family"] == family)
    found = try_family(family, task)
    assert found.verdict in {"right", "refused", "not built"}, found.line()
    if saved["versions"]["transformers"] == transformers.__version__:
        assert (found.verdict, found.reading) == (expected["verdict"], expected["reading"]), found.line()


def test_a_tenth_is_a_tenth_and_has_refused_ones() -> None:
    saved = {row["family"]: row for row in json.loads(RECORD.read_text(encoding="utf-8"))["families"]}
    assert len(CHOSEN) >= len(families()) // 10
    assert {saved[family]["verdict"] for family in CHOSEN} >= {"right", "refused"}
    assert {saved[family]["reading"] for family in CHOSEN} == {row["reading"] for row in saved.values()}


def without_check(monkeypatch: pytest.MonkeyPatch, reading: Reading = FASTEST) -> None:
    monkeypatch.setattr(trials, "require_agreement", lambda *_: reading)


def test_a_padding_that_a_model_does_not_know_is_found(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch)
    found = try_family("bart", task)
    assert (found.verdict, found.reason) == ("wrong", "logp, gradient, sampler")


def test_a_head_that_is_misread_is_found(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch)
    monkeypatch.setattr(trials, "head_of", lambda model: ModelHead(model.get_output_embeddings().weight, scale=1.01))
    found = try_family("llama", task)
    assert (found.verdict, found.reason) == ("wrong", "logp, gradient")


@pytest.mark.parametrize(
    ("error", "verdict", "reason"),
    [(UserError("--model: no"), "refused", "--model: no"), (KeyError("x"), "traceback", "KeyError: 'x'")],
)
def test_a_refusal_and_a_traceback_are_told_apart(
    task: Task, monkeypatch: pytest.MonkeyPatch, error: Exception, verdict: str, reason: str
) -> None:
    def fails(*_: Any) -> Reading:
        raise error

    monkeypatch.setattr(trials, "require_agreement", fails)
    found = try_family("llama", task)
    assert (found.verdict, found.reason) == (verdict, reason)
    assert require_agreement is not trials.require_agreement


def test_a_family_that_is_not_built_says_why(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> torch.nn.Module:
        raise ImportError("timm\nis missing")

    monkeypatch.setattr(trials, "write_model", fails)
    assert try_family("llama", task).line() == "llama: not built, ImportError: timm"
