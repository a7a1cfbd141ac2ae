"""What surrounds the rollouts: neither a failure nor a stop, wherever it comes, loses or spoils anything."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.runs.metrics import metrics_row

from integration.options.config import Config
from integration.options.errors import TrainingFailure
from integration.records.run_folder import RunFolder
from integration.shared import loop
from integration.shared.evaluation import Evaluation
from integration.shared.interrupt import Abandoned, Stopping
from integration.shared.ranks import OneProcess

FILES = ("metrics.jsonl", "evaluations.jsonl")
MORE = {"skipped_steps": 0, "grad_norm": 1.0, "findings": [], "seconds_sampling": 0.0, "seconds_updating": 0.0}
ROW = {name: x for name, x in metrics_row(1, **MORE).items() if name != "step"}
"""What a trainer returns of a rollout; the loop adds the step."""


class Trainer:
    """A run whose weights are a number, changed by every optimizer step; it fails in the middle of a rollout."""

    task: Any = None
    unfinished: Any = None
    sampler: Any = None
    ranks = OneProcess()

    def __init__(self, folder: Path, fails_in: int = 0, stops: tuple[int, str] | None = None) -> None:
        self.config = Config(model="small", rollouts=6, checkpoint_every=2, eval_every=3)
        self.folder = RunFolder(folder, keep_checkpoints=2)
        self.step, self.weights, self.random, self.fails_in, self.stops = 0, 0, 0, fails_in, stops
        self.before: int | None = None
        if not (folder / "config.json").exists():
            self.folder.create(self.config.to_json())
        for checkpoint in self.folder.checkpoints()[-1:]:
            self.weights, self.random, self.unfinished = json.loads((checkpoint / "state.json").read_text())
            self.step = int(checkpoint.name)
        self.folder.rewind(self.step if self.folder.checkpoints() else -1)

    def save(self) -> None:
        """The weights as a file."""

        def fill(folder: Path) -> None:
            folder.mkdir()
            (folder / "state.json").write_text(json.dumps([self.weights, self.random, self.unfinished]))

        self.folder.save_checkpoint(self.step, fill)

    def give_up(self) -> None:
        """Take back what `one_rollout` did before its updates."""
        if self.before is not None:
            self.random = self.before

    def one_rollout(self, stop: Stopping) -> dict[str, Any]:
        """Random numbers, then two optimizer steps, which depend on them; a stop between the two leaves the second."""
        if self.unfinished is None:
            self.at("before")
            self.before, self.random = self.random, self.random + 1
            self.at("sampling")
            stop.finish()
            self.before = None
            self.weights += self.random
            self.at("between")
            if stop.asked():
                self.unfinished = "the second step"
                raise Abandoned
        self.unfinished = None
        if self.step + 1 == self.fails_in:
            raise TrainingFailure("3 gradients in a row were not finite")
        self.weights += 1
        self.at("updating")
        return ROW

    def at(self, place: str) -> None:
        """A signal, if it is to come here."""
        if self.stops == (self.step, place):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0)


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """git is not asked for a commit."""
    monkeypatch.setattr(loop, "environment", lambda *_: {})


@pytest.mark.parametrize(("fails_in", "saved"), [(1, []), (2, []), (3, [2]), (4, [2]), (5, [2, 4])])
def test_a_failure_keeps_every_checkpoint_as_it_was_between_two_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_in: int, saved: list[int]
) -> None:
    monkeypatch.setattr(loop, "evaluation", lambda *_: None)
    monkeypatch.setattr(loop, "write_report", lambda folder: folder.path / "report.html")
    trainer = Trainer(tmp_path / "run", fails_in)
    way_on = f"of rollout {saved[-1]}: go on from it" if saved else "No checkpoint was saved"
    with pytest.raises(TrainingFailure, match=rf"3 gradients in a row were not finite\. .*{way_on}"):
        loop.run(trainer, trainer.one_rollout)
    assert [int(path.name) for path in trainer.folder.checkpoints()] == saved
    for last in trainer.folder.checkpoints()[-1:]:
        assert json.loads((last / "state.json").read_text()) == [sum(range(saved[-1] + 1)) + saved[-1], saved[-1], None]
    assert [row["step"] for row in trainer.folder.rows("metrics.jsonl")] == list(range(1, fails_in))


PLACES = [(step, place) for step in range(6) for place in ("before", "sampling", "between", "updating")]
PLACES += [(step, "evaluation") for step in (0, 3, 6)]


@pytest.mark.parametrize("stops", PLACES, ids=str)
def test_a_stop_anywhere_saves_and_the_run_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stops: tuple[int, str]
) -> None:
    """Sampling and evaluations are given up, updates are finished. Nothing is called saved that is not."""
    monkeypatch.setattr(loop, "write_report", lambda folder: folder.path / "report.html")
    monkeypatch.setattr(loop, "summary", lambda _: "")
    runs: list[tuple[Any, ...]] = []
    for name, where in (("whole", None), ("stopped", stops), ("stopped", None)):
        trainer = Trainer(tmp_path / name, stops=where)

        def evaluate(*_: Any, trainer: Trainer = trainer, **__: Any) -> Evaluation:
            trainer.at("evaluation")
            return Evaluation([float(trainer.weights)], [0.0], [])

        monkeypatch.setattr(loop, "evaluate", evaluate)
        status = loop.run(trainer, trainer.one_rollout)
        said = capsys.readouterr().out
        done = stops[0] + (stops[1] == "updating")
        if where is not None:
            assert (status, trainer.step) == (130, done)
            wanted = "all is saved up to here; go on" if done or stops[1] == "between" else "nothing was saved yet; begin again"
            assert f"stopped after rollout {done}; {wanted} with --resume {trainer.folder.path}" in said
            continue
        assert status == 0
        assert "from_pretrained(" in said
        rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in trainer.folder.rows(file)] for file in FILES]
        runs.append((trainer.weights, trainer.random, rows))
    assert runs[0] == runs[-1]
    assert [row["step"] for row in runs[0][2][1]] == [0, 3, 6]
