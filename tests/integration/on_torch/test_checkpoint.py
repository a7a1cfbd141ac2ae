"""Checkpoints of the PyTorch script on a full disk; test_train_torch_runs.py resumes from them."""

from __future__ import annotations

import pytest
from support.runs.broken_disk import longest_file

from integration.on_torch.trainer import Trainer
from integration.options.errors import NotWritten
from integration.records.checksums import damage


@pytest.mark.parametrize("size", [0, 500, 5000, 50_000])
def test_a_checkpoint_on_a_full_disk_is_named_and_the_one_before_is_whole(trainer: Trainer, size: int) -> None:
    """The file that is too large is written by Python, by Rust or by C++."""
    trainer.folder.create(trainer.config.to_json())
    trainer.step = 1
    trainer.save()
    trainer.step = 2
    with longest_file(size), pytest.raises(NotWritten, match=r"000002 could not be written: .*whole checkpoint is .*000001\."):
        trainer.save()
    assert [(path.name, damage(path)) for path in (trainer.folder.path / "checkpoints").iterdir()] == [("000001", None)]
    trainer.save()
    assert damage(trainer.folder.path / "checkpoints" / "000002") is None
    trainer.folder.close()
