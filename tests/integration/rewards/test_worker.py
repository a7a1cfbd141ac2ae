"""No answer ends, hangs or leaves the process that judges it, and what goes wrong is a verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.repository import PATHS, ROOT

from integration.options.errors import TrainingFailure
from integration.rewards.files import FileSource
from integration.rewards.sources import Direct, GymSource
from integration.rewards.verdicts import Limits, Verdict
from integration.rewards.worker import Worker

pytestmark = pytest.mark.slow
MATRIX = GymSource("spiral_matrix", {}, 0, 40)
"""Its verifier passes the answer to `eval`."""
QUICK = Limits(seconds=0.3)
HARMLESS = ["nope", "", "1 2 3", "[1]", "exit", "9", "x" * 5000]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One for all tests here that do not lose it."""
    worker = Worker(MATRIX, QUICK)
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def entries() -> list[dict[str, Any]]:
    """Questions."""
    dataset = MATRIX.dataset()
    return [dataset[index] for index in range(40)]


OS = "__import__('os')"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("exit()", "exit"),
        (f"{OS}._exit(0)", "exit"),
        ("9**9**9", "time"),
        ("[0 for _ in iter(int, 1)]", "time"),
        (f"{OS}.abort()", "crash"),
        (f"{OS}.system('touch PLACE')", "forbidden"),
        (f"{OS}.fork()", "forbidden"),
        (f"{OS}.kill({OS}.getppid(), 9)", "forbidden"),
        (f"{OS}.remove('PLACE')", "forbidden"),
        (f"{OS}.open('PLACE', {os.O_CREAT | os.O_WRONLY})", "forbidden"),
        ("open('PLACE', 'w')", "forbidden"),
        ("__import__('socket').create_connection(('127.0.0.1', 9))", "forbidden"),
        ("__import__('subprocess').run(['touch', 'PLACE'])", "forbidden"),
        ("__import__('ctypes').string_at(0)", "forbidden"),
    ],
)
def test_an_answer_that_acts_scores_zero_and_the_next_one_is_judged(
    worker: Worker, entries: list[dict[str, Any]], tmp_path: Path, text: str, kind: str
) -> None:
    entry, place = entries[0], tmp_path / "made"
    found = worker.verdicts([(entry, text.replace("PLACE", str(place))), (entry, entry["answer"])])
    assert found == [Verdict(0.0, kind), Verdict(1.0)]
    assert not place.exists()
    assert worker.starts == 1, "only the fork was lost"


def test_memory_that_an_answer_asks_for_is_limited() -> None:
    source = FileSource(str(Path(__file__).with_name("greedy_task.py")), {})
    worker = Worker(source, Limits(seconds=5.0, megabytes=256))
    assert worker.verdicts([({}, "100"), ({}, "1000"), ({}, "1")]) == [Verdict(1.0), Verdict(0.0, "memory"), Verdict(1.0)]
    worker.close()


def test_what_one_answer_changes_the_next_one_does_not_see(worker: Worker, entries: list[dict[str, Any]]) -> None:
    """Such as a verifier that is replaced by one that pays."""
    kind = "__import__('reasoning_gym').algorithmic.spiral_matrix.SpiralMatrixDataset"
    attack = f"setattr({kind}, 'score_answer', lambda *_, **__: 1.0)"
    assert worker.verdicts([(entries[0], attack), (entries[0], "exit2()"), (entries[1], "nope")])[1:] == [Verdict(0.0)] * 2


def test_harmless_answers_are_judged_as_by_a_direct_call(worker: Worker, entries: list[dict[str, Any]]) -> None:
    pairs = [(entry, text) for entry in entries for text in (*HARMLESS, entry["answer"], entry["answer"][:-2])]
    found = worker.verdicts(pairs)
    assert found == Direct(MATRIX.open()).verdicts(pairs)
    assert sum(verdict.score for verdict in found) >= len(entries), "not all of them are wrong"


def test_equal_answers_are_judged_once_and_all_get_the_verdict(worker: Worker, entries: list[dict[str, Any]]) -> None:
    pairs = [(entries[0], entries[0]["answer"]), (entries[0], "9**9**9")] * 4
    began = time.monotonic()
    assert worker.verdicts(pairs) == [Verdict(1.0), Verdict(0.0, "time")] * 4
    assert worker.verdicts([]) == []
    assert time.monotonic() - began < 4 * QUICK.wall, "one of the hangs, not four"


def test_a_worker_that_is_lost_is_started_again(entries: list[dict[str, Any]]) -> None:
    entry, worker = entries[0], Worker(MATRIX, QUICK)
    pair = (entry, entry["answer"])
    assert worker.verdicts([pair]) == [Verdict(1.0)]
    assert worker._process is not None
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    assert worker.verdicts([pair, (entry, "nope")]) == [Verdict(1.0), Verdict(0.0)]
    assert worker.starts == 2
    worker.close()


def test_where_there_is_no_fork_a_worker_that_hangs_or_ends_is_started_again(entries: list[dict[str, Any]]) -> None:
    entry, worker = entries[0], Worker(MATRIX, Limits(seconds=0.1), forks=False)
    texts = [entry["answer"], "9**9**9", f"{OS}._exit(0)", f"{OS}.system('ls')", "exit()", "nope"]
    found = worker.verdicts([(entry, text) for text in texts])
    assert [v.failure for v in found] == ["", "time", "lost", "forbidden", "exit", ""]
    assert [v.score for v in found] == [1.0] + 5 * [0.0]
    worker.close()


def test_a_task_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    worker = Worker(FileSource(str(tmp_path / "gone.py"), {}), QUICK)
    with pytest.raises(TrainingFailure, match=r"process that judges answers could not start: UserError: --task: there is no"):
        worker.verdicts([({}, "1")])


LEAVING = """
import os, signal, sys
from integration.rewards.sources import GymSource
from integration.rewards.worker import Worker
source = GymSource("spiral_matrix", {}, 0, 2)
worker = Worker(source)
entry = source.dataset()[0]
print(worker.verdicts([(entry, "1")])[0].score, worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_ends_with_the_process_that_it_works_for() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    score, pid = done.stdout.split()
    assert (score, done.returncode) == ("0.0", -signal.SIGKILL)
    for _ in range(200):
        if not _lives(int(pid)):
            return
        time.sleep(0.05)
    pytest.fail("the worker lives on")


def _lives(pid: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
