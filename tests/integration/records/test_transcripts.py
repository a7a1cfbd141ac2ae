"""The table of answers before and after: which files, which questions, which answers are marked."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from integration.records.transcripts import transcripts
from integration.tasks.task import CORRECT


def answered(question: str, texts: list[str], scores: list[float], answer: str | None = "7") -> dict[str, Any]:
    """One question of a file."""
    return {"question": question, "answer": answer, "texts": texts, "scores": scores}


def cells(page: str) -> list[list[str]]:
    """The table's rows."""
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


@pytest.mark.parametrize("steps", [(9, 10), (5, 40, 100), (1, 999_999, 1_000_000)])
def test_the_first_and_the_last_are_shown_by_their_numbers(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Not by the alphabet, in which "after-1000000" comes before "after-999999", and "before" after both."""
    names = {0: "before"} | {step: f"after-{step:06}" for step in steps}
    for step in random.Random(0).sample(sorted(names), len(names)):
        (tmp_path / f"{names[step]}.json").write_text(json.dumps([answered("2 + 5?", [f"at {step}"], [0.0])]))
    head, row = cells(transcripts(tmp_path))
    assert head == ["question", "solution", "before training", f"after rollout {max(steps)}"]
    assert row == ["2 + 5?", "7", "0.00 &nbsp; at 0", f"0.00 &nbsp; at {max(steps)}"]


def test_without_files_there_is_no_table_and_of_one_there_is_one_column(tmp_path: Path) -> None:
    assert transcripts(tmp_path) == ""
    (tmp_path / "after-000020.json").write_text(json.dumps([answered("a", ["x"], [0.5])]))
    assert cells(transcripts(tmp_path)) == [["question", "solution", "after rollout 20"], ["a", "7", "0.50 &nbsp; x"]]


def test_an_answer_is_marked_if_its_score_is_full_and_shown_as_it_is(tmp_path: Path) -> None:
    scores = [1.0, CORRECT, CORRECT - 1e-6, 0.994, 0.0]
    texts = ["7", "seven", "<7>", "7.0", ""]
    (tmp_path / "before.json").write_text(json.dumps([answered("<i>", texts, scores, "a & b")]))
    _, (question, solution, shown) = cells(transcripts(tmp_path))
    assert (question, solution) == ("&lt;i&gt;", "a &amp; b")
    assert shown.split("<br>") == [
        '<span class="right">✓ 7</span>',
        '<span class="right">✓ seven</span>',
        "1.00 &nbsp; &lt;7&gt;",
        "0.99 &nbsp; 7.0",
        "0.00 &nbsp; <i>empty</i>",
    ]


def test_the_questions_are_those_of_the_last_file(tmp_path: Path) -> None:
    """A question that is new there has an empty cell before; one that is gone has no row. The order is the last file's."""
    (tmp_path / "before.json").write_text(json.dumps([answered("old", ["x"], [0.0]), answered("kept", ["x"], [0.0])]))
    last = [answered("new", ["y"], [1.0], None), answered("kept", ["z"], [0.0])]
    (tmp_path / "after-000001.json").write_text(json.dumps(last))
    _, first, second = cells(transcripts(tmp_path))
    assert first == ["new", "None", "", '<span class="right">✓ y</span>']
    assert second == ["kept", "7", "0.00 &nbsp; x", "0.00 &nbsp; z"]
