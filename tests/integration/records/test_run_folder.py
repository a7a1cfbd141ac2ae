"""A run's folder never holds half of anything."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.runs.metrics import metrics_row

from integration.on_torch.checkpoint import fingerprint, load_state, write_checkpoint
from integration.options.config import Config
from integration.options.errors import TrainingFailure, UserError
from integration.options.sizes import Experts
from integration.records.checksums import damage
from integration.records.run_folder import RunFolder, has_state
from integration.shared.ranks import OneProcess

OPTIMIZER: Any = SimpleNamespace(state={})
"""Without a step."""


class Model(torch.nn.Linear):
    """Something with weights that saves itself like a transformers model."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        torch.save(self.state_dict(), folder / "weights.pt")


class FullDisk(Model):
    """A model that is interrupted while it is written."""

    def save_pretrained(self, folder: Path) -> None:
        super().save_pretrained(folder)
        raise OSError("no space left")


class Tokenizer:
    """Nothing to save."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def save(folder: RunFolder, step: int, model: Model, state: dict[str, Any]) -> Path:
    """A checkpoint."""
    state = {"step": step, **state}
    return folder.save_checkpoint(step, lambda path: write_checkpoint(path, model, OPTIMIZER, Tokenizer(), state, OneProcess()))


def test_a_torn_last_line_is_left_out(folder: RunFolder) -> None:
    for step in (1, 2):
        folder.append("metrics.jsonl", metrics_row(step))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1, 2]
    folder.rewind(1)
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1]
    folder.append("metrics.jsonl", metrics_row(2))
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1, 2]
    folder.close()


@pytest.mark.parametrize("row", [{"reward": 1.0}, {"step": None}, {"step": "2"}])
def test_a_line_without_its_step_is_named(folder: RunFolder, row: dict[str, Any]) -> None:
    folder.append("metrics.jsonl", metrics_row(1))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl: line 2 is damaged: expected a step, a whole number, got"):
        folder.rewind(1)
    folder.close()


def test_an_interrupted_checkpoint_is_none(folder: RunFolder) -> None:
    save(folder, 1, Model(2, 2), {"x": 1})
    with pytest.raises(
        TrainingFailure, match=r"000002 could not be written: OSError: no space left; the last whole .*000001\."
    ):
        save(folder, 2, FullDisk(2, 2), {"x": 2})
    assert [p.name for p in folder.checkpoints()] == ["000001"]
    save(folder, 2, Model(2, 2), {"x": 3})
    assert load_state(folder.checkpoints()[-1], Model(2, 2), OPTIMIZER, OneProcess())["x"] == 3


def test_old_checkpoints_go_and_new_ones_stay(folder: RunFolder) -> None:
    for step in (9, 10, 100):
        save(folder, step, Model(2, 2), {})
    assert [p.name for p in folder.checkpoints()] == ["000010", "000100"]


def test_one_state_stays_and_the_models_of_older_checkpoints(folder: RunFolder) -> None:
    """A link: the model's file takes its space once. What stays is whole."""
    older = save(folder, 9, Model(2, 2), {"x": 1})
    inode = (older / "weights.pt").stat().st_ino
    newer = save(folder, 10, Model(2, 2), {"x": 2})
    assert [has_state(path) for path in (older, newer)] == [False, True]
    assert {path.name for path in older.iterdir()} == {"weights.pt", "tokenizer.json", "checksums.json"}
    assert (older / "weights.pt").stat().st_ino == inode
    assert damage(older) is None
    assert folder.newest_whole() == newer


def test_the_older_state_stays_as_long_as_the_newer_is_not_whole(folder: RunFolder) -> None:
    older = save(folder, 9, Model(2, 2), {"x": 1})
    folder.keep_states = 2
    newer = save(folder, 10, Model(2, 2), {"x": 2})
    folder.keep_states = 1
    (newer / "trainer.pt").write_bytes(b"torn")
    folder.tidy()
    assert has_state(older)
    assert folder.newest_whole() == older


def test_a_checkpoint_knows_its_model(folder: RunFolder) -> None:
    path = save(folder, 1, Model(2, 2), {})
    assert load_state(path, Model(2, 2), OPTIMIZER, OneProcess())["step"] == 1
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        load_state(path, Model(2, 3), OPTIMIZER, OneProcess())
    (path / "trainer.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be read"):
        load_state(path, Model(2, 2), OPTIMIZER, OneProcess())
    assert fingerprint(Model(2, 2)) != fingerprint(Model(1, 4))


def test_a_configuration_survives_the_disk(folder: RunFolder) -> None:
    config = Config(model="small-moe", experts=Experts(4, 1), task_args=("a=1",), lr=0.5, run_dir=Path("x/y"))
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert Config.from_json(folder.config()) == Config()
    with pytest.raises(UserError, match=r"config\.json is of another version"):
        Config.from_json({**config.to_json(), "renamed_option": 1})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a run"):
        RunFolder(tmp_path, keep_checkpoints=1).config()


def test_a_configuration_from_before_there_were_mixtures_still_loads() -> None:
    saved = Config(model="small").to_json()
    for name in ("experts", "routing_replay", "router_noise", "sampler_dtype", "sampler_correction"):
        del saved[name]
    assert Config.from_json(saved) == Config(model="small")
