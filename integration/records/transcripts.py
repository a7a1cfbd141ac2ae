"""The same held-out questions before and after training, side by side, right answers marked."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from integration.records.json_lines import Row
from integration.records.transcript_files import transcript_files
from integration.tasks.task import CORRECT


def transcripts(folder: Path) -> str:
    """A table of the first and of the last transcripts in a folder; empty if there are none."""
    files = list(transcript_files(folder))
    if not files:
        return ""
    chosen = [files[0], files[-1]] if len(files) > 1 else files
    columns = [{row["question"]: row for row in json.loads(file.read_text(encoding="utf-8"))} for file in chosen]
    head = "".join(f"<th>{x}</th>" for x in ("question", "solution", *(title(file.stem) for file in chosen)))
    body = "".join(_row(question, [column.get(question) for column in columns]) for question in columns[-1])
    note = "Sampled answers to the same held-out questions, each with its score; ✓ marks a right one."
    return f"<h2>Answers</h2><p>{note}</p><table><tr>{head}</tr>{body}</table>"


def title(name: str) -> str:
    """Of the transcripts in a file.

    >>> title("before"), title("after-000030")
    ('before training', 'after rollout 30')
    """
    return "before training" if name == "before" else f"after rollout {int(name.removeprefix('after-'))}"


def _row(question: str, sides: list[Row | None]) -> str:
    answer = next(side["answer"] for side in sides if side is not None)
    cells = "".join(f"<td>{_answers(side)}</td>" for side in sides)
    return f"<tr><td>{html.escape(question)}</td><td>{html.escape(str(answer))}</td>{cells}</tr>"


def _answers(side: dict[str, Any] | None) -> str:
    if side is None:
        return ""
    lines = []
    for score, text in zip(side["scores"], side["texts"], strict=True):
        shown = html.escape(text) or "<i>empty</i>"
        lines.append(f'<span class="right">✓ {shown}</span>' if score >= CORRECT else f"{score:.2f} &nbsp; {shown}")
    return "<br>".join(lines)
