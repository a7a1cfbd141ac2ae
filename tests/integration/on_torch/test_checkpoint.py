"""A checkpoint that cannot be written is named, with what the operating system says, and spoils no other."""

from __future__ import annotations

import pytest
from support.runs.broken_disk import longest_file

from integration.on_torch.trainer import Trainer
from integration.on_torch.training import one_rollout
from integration.options.errors import NotWritten
from integration.records.checksums import damage

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("size", [0, 500, 5000, 50_000, None])
def test_a_checkpoint_on_a_full_disk_is_named_and_the_one_before_is_whole(trainer: Trainer, size: int | None) -> None:
    """The file that is too large is written by Python, by Rust or by C++, which does not know why it failed."""
    trainer.folder.create(trainer.config.to_json())
    one_rollout(trainer)  # which gives the optimizer its state
    trainer.step = 1
    trainer.save()
    first = trainer.folder.path / "checkpoints" / "000001"
    room = (first / "model.safetensors").stat().st_size + 1000 if size is None else size  # for all but the optimizer
    assert room < (first / "optimizer" / "__0_0.distcp").stat().st_size
    trainer.step = 2
    with (
        longest_file(room),
        pytest.raises(NotWritten, match=r"000002 could not be written: .*File too large.*; the last"),
    ):
        trainer.save()
    assert [(path.name, damage(path)) for path in first.parent.iterdir()] == [("000001", None)]
    trainer.save()
    assert damage(first.parent / "000002") is None
    trainer.folder.close()
