"""A task of your own: a Python file with `questions()` and `score()`. docs/tasks.md has an example."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from integration.options.errors import UserError
from integration.rewards.sources import Opened


@cache
def load_file(option: str, path: str) -> ModuleType:
    """A Python file as a module, run once; UserError that names the option if it cannot be read or run."""
    name = f"given_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"{option}: there is no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    try:
        with contextlib.chdir("."):  # afterwards back to where it was: the run's own relative paths begin there
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever stands in the file; exit() would end the run as if all were well
        raise UserError(f"{option}: {path} could not be run: {type(error).__name__}: {error}") from error
    return module


@dataclass(frozen=True)
class FileSource:
    """The task in a file: `questions(**args)` gives entries, `score(answer, entry)` judges."""

    path: str
    args: dict[str, Any]

    @cached_property
    def module(self) -> ModuleType:
        """The file, run once in each process."""
        return load_file("--task", self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "args": self.args}  # a module cannot be sent; the worker runs the file itself

    @property
    def executing(self) -> bool:
        """EXECUTES = True in the file: `score` executes the answer."""
        return bool(getattr(self.module, "EXECUTES", False))

    def open(self) -> Opened:
        """Run the file."""
        return _Own(self._function("score"))

    def entries(self, count: int, seed: int) -> list[dict[str, Any]]:
        """At most `count` questions, in an order that the seed chooses: files are often sorted, and the first are held out."""
        ask = self._function("questions")
        try:
            with contextlib.chdir("."):
                found = [_entry(self.path, number, given) for number, given in enumerate(islice(ask(**self.args), count))]
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"--task: questions() in {self.path} failed: {type(error).__name__}: {error}") from error
        random.Random(f"questions:{seed}").shuffle(found)
        return found

    def _function(self, name: str) -> Callable[..., Any]:
        found = getattr(self.module, name, None)
        if not callable(found):
            raise UserError(f"--task: {self.path} has no function {name}(); a task is a file with questions() and score()")
        return found  # type: ignore[no-any-return]  # it is callable


@dataclass(frozen=True)
class _Own:
    judge: Callable[[str, dict[str, Any]], Any]

    def score(self, entry: dict[str, Any], text: str) -> Any:
        """By the file's `score`, which has a copy: what it does to the question, the next answer does not see."""
        return self.judge(text, copy.deepcopy(entry))


def _entry(path: str, number: int, given: Any) -> dict[str, Any]:
    """A dict with a question and an answer, or None as the answer; (question, answer) may be written for it."""
    entry = {"question": given[0], "answer": given[1]} if isinstance(given, tuple) and len(given) == 2 else given
    where = f"--task: questions() in {path}: number {number}"
    if not isinstance(entry, dict) or not isinstance(entry.get("question"), str) or not entry["question"].strip():
        raise UserError(f'{where}: expected a dict with a text "question", or (question, answer), got {given!r:.200}')
    if not isinstance(entry.setdefault("answer", None), (str, type(None))):
        raise UserError(f'{where}: expected a text or None as "answer", got {entry["answer"]!r:.200}')
    for text in (entry["question"], entry["answer"] or ""):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # no tokenizer takes it
            raise UserError(f"{where}: expected a text of valid characters, got {text!r:.200}") from error
    try:
        pickle.dumps(entry)
    except Exception as error:
        raise UserError(f"{where}: cannot be sent to the process that judges: {error}") from error
    return entry
