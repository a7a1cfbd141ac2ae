"""A task and an objective of one's own train from the command line, survive hostile answers, and can be resumed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from support.repository import ROOT
from support.runs import scripts
from support.runs.scripts import TINY, rows

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "docs" / "examples"
OPTIONS = [
    *TINY[:2], *TINY[7:], "--task-args", "most=4", "--mini-batches", "2", "--checkpoint-every", "1",
    "--objective", f"{EXAMPLES / 'my_loss.py'}:WIDE",
]  # fmt: skip

run = partial(scripts.run, executing=True)

HOSTILE = """

EXECUTES = True
_honest = score


def score(answer, entry):
    kind = sum(map(ord, entry["question"])) % 12
    if kind < 4:
        eval(["exit()", "9**9**9", "__import__('os')._exit(0)", "__import__('os').system('ls')"][kind])
    return _honest(answer, entry)
"""


def test_an_own_task_with_a_verifier_that_is_attacked_trains_and_is_resumed(tmp_path: Path) -> None:
    """A third of its questions end, hang or leave the verifier, whatever is answered."""
    mine, folder = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text((EXAMPLES / "vowels.py").read_text() + HOSTILE)
    task = ["--task", str(mine), "--verifier-seconds", "0.1", "--warm-up.target", "0.0"]
    done = run(tmp_path / "cache", *OPTIONS, *task, "--rollouts", "2", "--run-dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert "No held-out problem is trained on" in done.stdout
    failures = [row["verifier_failures"] for row in rows(folder)]
    kinds = {kind for seen in failures for kind in seen}
    assert kinds
    assert kinds <= {"exit", "time", "forbidden"}
    assert [row["verifier_errors"] for row in rows(folder)] == [sum(seen.values()) for seen in failures]
    assert "the verifier came to no score, and they count as 0" in done.stderr + done.stdout
    assert json.loads((folder / "task.json").read_text())["files"].keys() == {str(mine), str(EXAMPLES / "my_loss.py")}

    whole = run(tmp_path / "cache", *OPTIONS, *task, "--rollouts", "3", "--run-dir", str(tmp_path / "whole"))
    resumed = run(tmp_path / "cache", "--resume", str(folder), "--rollouts", "3")
    assert (whole.returncode, resumed.returncode) == (0, 0), resumed.stderr
    assert rows(folder) == rows(tmp_path / "whole")

    mine.write_text(mine.read_text().replace("% 12", "% 13"))
    refused = run(tmp_path / "cache", "--resume", str(folder), "--rollouts", "4")
    assert refused.returncode == 2
    assert "mine.py is not what it was when the run was started" in refused.stderr
