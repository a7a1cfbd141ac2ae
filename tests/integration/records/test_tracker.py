"""What wandb and trackio are told: a stand-in with the arguments that both of them take."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from support.runs.metrics import metrics_row

from integration.options.config import Config
from integration.options.errors import UserError
from integration.records.run_folder import RunFolder
from integration.records.tracker import Tracker, TrackerName

TOLD: list[tuple[str, Any]] = []


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TrackerName:
    """A module of that name; what trackio's `init` does not take, the stand-in does not take."""
    module = ModuleType(request.param)
    module.__spec__ = __import__("importlib.machinery").machinery.ModuleSpec(request.param, None)

    def init(project: str, name: str, config: dict[str, Any], resume: str, **more: Any) -> None:
        assert set(more) <= ({"id"} if request.param == "wandb" else set())
        TOLD.append(("init", (project, name, config["lr"], resume, more)))

    TOLD.clear()
    vars(module).update(init=init, log=lambda row: TOLD.append(("log", row)), finish=lambda: TOLD.append(("finish", None)))
    monkeypatch.setitem(sys.modules, request.param, module)
    name: TrackerName = request.param
    return name


def test_every_line_of_numbers_is_sent_with_its_rollout(folder: RunFolder, service: TrackerName) -> None:
    config = Config(tracker=service)
    tracker = Tracker(config.tracker, folder.path.name, config.to_json())
    folder.listeners.append(tracker.log)
    folder.append("metrics.jsonl", metrics_row(3, log_s=[0.5]))
    folder.append("evaluations.jsonl", {"step": 3, "sampled_accuracy": 0.25, "sampled": [0.25]})
    tracker.end()
    folder.close()
    more = {"id": "run"} if service == "wandb" else {}
    first, metrics, evaluation, last = TOLD
    assert first == ("init", ("gspo-core", "run", config.lr, "allow", more))
    assert metrics[1]["metrics/reward"] == metrics_row(3)["reward"]
    assert metrics[1]["rollout"] == 3
    assert not any(isinstance(value, list) for value in metrics[1].values())
    assert evaluation == ("log", {"evaluations/sampled_accuracy": 0.25, "rollout": 3})
    assert last == ("finish", None)


def test_without_a_tracker_nothing_is_sent(folder: RunFolder) -> None:
    tracker = Tracker("none", "run", {})
    tracker.log("metrics.jsonl", metrics_row(1))
    tracker.end()
    folder.close()


def test_one_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integration.options.checks.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^--tracker: wandb is not installed; run `pip install wandb`"):
        Config(tracker="wandb")
