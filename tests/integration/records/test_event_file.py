"""TensorBoard reads the numbers of a run, and of a resumed one those that count."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from integration.records.event_file import EventFile


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows it."""
    read = EventAccumulator(str(folder))
    read.Reload()
    return [(point.step, point.value) for point in read.Scalars(name)]


def test_numbers_are_read_back_and_a_resumed_run_replaces_its_steps(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    killed = EventFile(folder, 1)
    for step in (1, 2, 3):
        killed.add(step, {"metrics/reward": step / 4, "metrics/clip": float("nan")})
    resumed = EventFile(folder, 2)
    resumed.add(2, {"metrics/reward": 8.0})
    assert curve(folder, "metrics/reward") == [(1, 0.25), (2, 8.0)]
    assert len(curve(folder, "metrics/clip")) == 1
