"""Questions to train on and questions held out: no held-out problem is ever trained on, in other words neither."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

ALL = ("*",)
PROBLEMS: dict[str, tuple[str, ...]] = {
    "advanced_geometry": ALL,
    "arc_agi": ("task_id",),
    "bf": ("bf_program",),
    "calendar_arithmetic": ALL,
    "intermediate_integration": ("integrand",),
    "knights_knaves": ("statements", "names"),
    "letter_jumble": ("original_words",),
    "polynomial_equations": ("polynomial_expr", "variable"),
    "polynomial_multiplication": ("polynomial_expr",),
    "rubiks_cube": ("cube_size", "scramble_moves"),
    "sentence_reordering": ("answer",),
    "simple_equations": ("equation", "variable"),
    "simple_geometry": ("n_sides", "known_angles"),
    "simple_integration": ("integrand",),
}
"""Tasks that ask one problem in several wordings, and what tells the problem in an entry's metadata ("*": all of it). In the
other tasks metadata is as fine as the question, or, as in acre and aiw, tells less: there the question is the problem."""
BOOKKEEPING = {"source_dataset", "source_index", "difficulty", "seed"}
SPACING = 2_654_435_761
"""reasoning-gym draws question i of a seed from seed + i. Multiples of this number modulo 2³² lie as far apart as any, so that
runs of different seeds have different questions; seed 0 stays 0."""


@dataclass(frozen=True)
class Example:
    """One question of a task."""

    question: str
    answer: str | None
    """The generator's own solution; some tasks have none, only a verifier."""
    entry: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Split:
    """Train and held out, and how far apart they are."""

    train: list[Example]
    held_out: list[Example]
    by_problem: bool
    """Some questions have a known problem, and the parts share none."""
    reworded: int
    """Draws that are in neither part: held-out problems in other words."""

    @property
    def sentence(self) -> str:
        """How disjoint the parts are, for the log and the report."""
        if not self.by_problem:
            return "No held-out question is trained on (compared as text: nothing else tells a problem of this task)."
        also = f"; {self.reworded} draws were left out for that" if self.reworded else ""
        return f"No held-out problem is trained on, in other words neither (compared by what the generator says of it{also})."

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all questions and solutions: a resumed run has the same ones, in the same order."""
        found = hashlib.sha256()
        for part in (self.held_out, self.train):
            for example in part:
                found.update(f"{example.question}\0{example.answer}\0".encode("utf-8", "surrogatepass"))
            found.update(b"\1")
        return found.hexdigest()


def spaced(seed: int) -> int:
    """The generator's seed of a run's seed.

    >>> spaced(0), spaced(1), spaced(2)
    (0, 2654435761, 1013904226)
    """
    return seed * SPACING % 2**32


def problem_of(name: str, entry: dict[str, Any]) -> str | None:
    """What an entry asks, whatever its words; None if only the words tell.

    >>> problem_of("bf", {"answer": "x", "metadata": {"bf_program": "+.", "source_index": 3}})
    "bf: [('bf_program', '+.')]"
    """
    if "problem" in entry:  # of a task of one's own
        return f"{name}: {entry['problem']!r}"
    metadata = entry.get("metadata") or {}
    name = metadata.get("source_dataset", name)
    if name not in PROBLEMS:
        return None
    names = PROBLEMS[name]
    fields = {"answer": entry.get("answer"), **metadata}
    chosen = sorted(set(fields) - BOOKKEEPING if names == ALL else names)
    return f"{name}: {[(key, fields.get(key)) for key in chosen]!r}"


def split(name: str, entries: Iterable[dict[str, Any]], train_size: int, held_out_size: int) -> Split:
    """The first distinct problems are held out; later draws of other ones are for training, repeats included.

    A pure function of its arguments. It stops drawing as soon as both parts are full.
    """
    held_out: dict[str, Example] = {}
    questions: set[str] = set()
    train: list[Example] = []
    by_problem, reworded = False, 0
    for example, problem in _examples(name, entries):
        by_problem |= problem is not None
        key = f"question: {example.question}" if problem is None else problem
        known = key in held_out or example.question in questions
        if len(held_out) < held_out_size:
            if not known:
                held_out[key] = example
                questions.add(example.question)
        elif not known:
            train.append(example)
            if len(train) == train_size:
                break
        else:
            reworded += example.question not in questions
    return Split(train, list(held_out.values()), by_problem, reworded)


def _examples(name: str, entries: Iterable[dict[str, Any]]) -> Iterator[tuple[Example, str | None]]:
    for entry in entries:
        yield Example(entry["question"].strip(), entry["answer"], entry), problem_of(name, entry)
