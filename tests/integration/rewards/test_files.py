"""A task and an objective in files of one's own: what they have to have, and that a changed file is a new run."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.repository import ROOT
from support.runs.in_process import in_process

from gspo_core import Clip, Objective
from gspo_core.objectives import SequenceMean, SequenceToken
from integration.options.config import Config
from integration.options.errors import UserError
from integration.records.run_folder import RunFolder
from integration.rewards.files import FileSource
from integration.tasks.record import FILE, begin, require_same_questions
from integration.tasks.task import Task, load_task

VOWELS = str(ROOT / "docs" / "examples" / "vowels.py")
LOSS = str(ROOT / "docs" / "examples" / "my_loss.py")


def vowels(*args: str, seed: int = 0) -> Task:
    """The example of docs/tasks.md."""
    return in_process(load_task(VOWELS, args, seed=seed, train_size=80, held_out_size=20))


def test_the_example_judges_and_holds_words_out_in_either_wording() -> None:
    task = vowels()
    assert task.scores(task.train, [str(e.answer) for e in task.train]) == [1.0] * 80
    assert task.scores(task.train[:1], [str(int(str(task.train[0].answer)) + 1)]) == [0.5]
    assert not {e.entry["problem"] for e in task.train} & {e.entry["problem"] for e in task.held_out}
    assert max(len(e.entry["problem"]) for e in vowels("most=9").train) == 9


def test_the_seed_chooses_the_order_and_nothing_else_does() -> None:
    assert [e.question for e in vowels().train] == [e.question for e in vowels().train]
    assert [e.question for e in vowels().held_out] != [e.question for e in vowels(seed=1).held_out]


JUDGE = "def score(a, e): return 1\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = ", "could not be run: SyntaxError"),
        ("raise SystemExit(0)", "could not be run: SystemExit: 0"),
        (JUDGE + "def questions(): yield ('q', '1'); exit()", "failed: SystemExit"),
        ("def questions(): return []", r"has no function score\(\)"),
        (JUDGE + "questions = 3", r"has no function questions\(\)"),
        (
            "def score(a, e): return 1\ndef questions(): return [{'answer': '1'}]",
            "number 0: expected a dict with a text",
        ),
        (
            "def score(a, e): return 1\ndef questions(): return [('q', 1)]",
            'number 0: expected a text or None as "answer", got 1',
        ),
        (JUDGE + "def questions(): return [('q\\udcff', '1')]", "number 0: expected a text of valid characters"),
        (JUDGE + "def questions(): return [('q', '\\ud800')]", "number 0: expected a text of valid characters"),
        (JUDGE + "def questions(): yield ('q', '1'); raise KeyError('k')", "failed: KeyError: 'k'"),
        (JUDGE + "def questions(): return [{'question': 'q', 'f': lambda: 1}]", "number 0: cannot be sent"),
        (JUDGE + "def questions(n): return []", r"questions\(\) in .* failed: TypeError"),
        (JUDGE + "def questions(): return [('q', '1')]", "has only 1 distinct questions"),
    ],
)
def test_a_file_that_is_no_task_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=f"^--task: .*{sentence}"):
        load_task(str(tmp_path / "mine.py"), (), seed=0, train_size=4, held_out_size=2)


def test_a_score_that_changes_its_question_changes_no_other_verdict(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def score(a, e): e['metadata']['seen'] += [a]; return float(a == e.pop('answer') and not e['metadata']['seen'][1:])\n"
        "def questions(): return [{'question': f'q{i}', 'answer': str(i), 'metadata': {'seen': []}} for i in range(9)]\n"
    )
    source = FileSource(str(tmp_path / "mine.py"), {})
    entry, judge = source.entries(9, 0)[0], source.open()
    assert [judge.score(entry, text) for text in ("no", entry["answer"], entry["answer"])] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(("when", "first", "later"), [("read", "os.chdir('..')", ""), ("asked", "", "os.chdir('..'); ")])
def test_a_file_that_goes_elsewhere_leaves_the_run_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, first: str, later: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"import os\n{first}\n{JUDGE}def questions():\n    {later}return [(str(i), str(i)) for i in range(9)]\n"
    (tmp_path / f"{when}.py").write_text(text)
    task = load_task(f"{when}.py", (), seed=0, train_size=4, held_out_size=2)
    assert (Path.cwd(), len(task.train)) == (tmp_path, 4)


def test_an_objective_is_named_by_its_file_and_takes_a_clip_range() -> None:
    assert Config(objective=f"{LOSS}:WIDE").build_objective() == Objective(SequenceToken(), Clip(0.1, 0.2), SequenceMean())
    assert Config(objective=f"{LOSS}:WIDE", clip_low=0.3).build_objective().surrogate == Clip(0.3, 0.2)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (f"{LOSS}:NARROW", "expected .* to have an Objective NARROW, got nothing of that name"),
        (f"{LOSS}:Clip", "expected .* to have an Objective Clip, got a type"),
        (LOSS, "expected .* to have an Objective OBJECTIVE, got nothing"),
        ("gone.py:MINE", "there is no Python file gone.py"),
        ("gsop", "expected gspo, .* got gsop; did you mean gspo"),
    ],
)
def test_an_objective_that_is_not_there_is_refused_in_a_sentence(word: str, sentence: str) -> None:
    with pytest.raises(UserError, match=f"^--objective: {sentence}"):
        Config(objective=word)


def test_a_run_goes_on_with_the_same_questions_and_files_only(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(Path(VOWELS).read_text())
    folder = RunFolder(tmp_path / "run", keep_checkpoints=1)
    folder.claim()
    task = vowels()
    begin(task, folder, [str(path)])
    require_same_questions(task, folder, [str(path)])
    with pytest.raises(UserError, match=r"--resume: the questions of .* are not those of the run so far"):
        require_same_questions(vowels("most=9"), folder, [str(path)])
    path.write_text(Path(VOWELS).read_text() + "\n# another verifier, it may be\n")
    with pytest.raises(UserError, match=r"--resume: .*mine\.py is not what it was when the run was started"):
        require_same_questions(task, folder, [str(path)])
    (folder.path / FILE).write_text("{}")
    with pytest.raises(UserError, match=rf"^--resume: .*{FILE} is damaged: expected fingerprint, got None"):
        require_same_questions(task, folder, [str(path)])
    (folder.path / FILE).unlink()
    (folder.path / "checkpoints" / "000001").mkdir()
    with pytest.raises(UserError, match=f"has no {FILE}: it is of a version that drew other questions"):
        require_same_questions(task, folder, [str(path)])
