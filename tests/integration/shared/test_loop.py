"""What surrounds the rollouts: a failure in the middle of one saves nothing and spoils nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.runs.metrics import metrics_row

from integration.options.config import Config
from integration.options.errors import TrainingFailure
from integration.records.run_folder import RunFolder
from integration.shared import loop

MORE = {"skipped_steps": 0, "grad_norm": 1.0, "findings": [], "seconds_sampling": 0.0, "seconds_updating": 0.0}
ROW = {name: x for name, x in metrics_row(1, **MORE).items() if name != "step"}
"""What a trainer returns of a rollout; the loop adds the step."""


class Trainer:
    """A run whose weights are a number, changed by every optimizer step; it fails in the middle of a rollout."""

    task: Any = None
    sampler: Any = None

    def __init__(self, folder: Path, fails_in: int) -> None:
        self.config = Config(model="small", rollouts=6, checkpoint_every=2)
        self.folder = RunFolder(folder, keep_checkpoints=2)
        self.folder.create(self.config.to_json())
        self.step, self.weights, self.fails_in = 0, 0, fails_in

    def save(self) -> None:
        """The weights as a file."""

        def fill(folder: Path) -> None:
            folder.mkdir()
            (folder / "weights").write_text(str(self.weights))

        self.folder.save_checkpoint(self.step, fill)

    def one_rollout(self) -> dict[str, Any]:
        """Two optimizer steps."""
        self.weights += 1
        if self.step + 1 == self.fails_in:
            raise TrainingFailure("3 gradients in a row were not finite")
        self.weights += 1
        return ROW


@pytest.mark.parametrize(("fails_in", "saved"), [(1, []), (2, []), (3, [2]), (4, [2]), (5, [2, 4])])
def test_a_failure_keeps_every_checkpoint_as_it_was_between_two_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_in: int, saved: list[int]
) -> None:
    monkeypatch.setattr(loop, "evaluation", lambda _: None)
    monkeypatch.setattr(loop, "write_report", lambda folder: folder.path / "report.html")
    trainer = Trainer(tmp_path / "run", fails_in)
    way_on = f"of rollout {saved[-1]}: go on from it" if saved else "No checkpoint was saved"
    with pytest.raises(TrainingFailure, match=rf"3 gradients in a row were not finite\. .*{way_on}"):
        loop.run(trainer, trainer.one_rollout)
    checkpoints = {int(path.name): (path / "weights").read_text() for path in trainer.folder.checkpoints()}
    assert checkpoints == {step: str(2 * step) for step in saved}
    assert [row["step"] for row in trainer.folder.rows("metrics.jsonl")] == list(range(1, fails_in))
