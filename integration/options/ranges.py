"""The legal values of every option: its type, and for a number its range. One sentence names what is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from integration.options.errors import UserError


class Range(NamedTuple):
    """The numbers of an option."""

    least: float
    most: float
    open_below: bool = False
    """`least` itself is not allowed."""
    open_above: bool = False
    noun: str = "number"

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return False
        above = self.least < value if self.open_below else self.least <= value
        return above and (value < self.most if self.open_above else value <= self.most)

    def expected(self, value: float) -> str:
        """What would have been right in place of `value`."""
        if value < self.least and not (self.open_below or self.open_above):
            return f"at least {self.least:,.0f}"
        return str(self)

    def __str__(self) -> str:
        ends = f"{self.least:g}, {self.most:g}" if self.most < 1e6 else f"{self.least:g}, {self.most:,.0f}"
        return f"a {self.noun} in {'(' if self.open_below else '['}{ends}{')' if self.open_above else ']'}"


COUNT, FROM_ZERO = Range(1, 10**9), Range(0, 10**9)
SHARE = Range(0, 1, open_below=True, open_above=True, noun="share")
RANGES = {
    "verifier_seconds": Range(0.01, 3600),
    "shots": FROM_ZERO,
    "router_noise": Range(0, 100),
    "sampler_memory": SHARE,
    "clip_low": Range(0, 1, open_above=True, noun="clip width"),
    "clip_high": Range(0, 1000),
    "clip_fraction": SHARE,
    "pilot_rollouts": COUNT,
    "kl_coefficient": Range(0, 1000),
    "kl_cap": Range(0, 1000, open_below=True),
    "lr": Range(0, 1, open_above=True),
    "lr_warm_up": FROM_ZERO,
    "max_grad_norm": Range(0, 10**9, open_below=True),
    "max_bad_steps": COUNT,
    "rollouts": COUNT,
    "prompts_per_rollout": COUNT,
    "group_size": Range(2, 10**6),
    "mini_batches": COUNT,
    "micro_batch_size": COUNT,
    "micro_batch_tokens": COUNT,
    "max_new_tokens": Range(1, 10**6),
    "temperature": Range(0.01, 100),
    "train_size": Range(1, 10**7),
    "eval_prompts": Range(1, 10**6),
    "eval_samples": Range(1, 10**6),
    "eval_every": FROM_ZERO,
    "checkpoint_every": COUNT,
    "keep_checkpoints": COUNT,
    "keep_states": COUNT,
    "lora_rank": Range(1, 4096),
    "lora_alpha": Range(1, 10**6),
    "seed": Range(0, 2**31 - 1),
    "threads": Range(1, 4096),
    "data_parallel": Range(1, 4096),
    "model_parallel": Range(1, 4096),
    "resume_step": COUNT,
    "context_parallel": COUNT,
    "vocabulary_parallel": COUNT,
    "warm_up.target": Range(0, 1),
    "warm_up.max_steps": COUNT,
    "warm_up.batch_size": Range(1, 10**6),
    "warm_up.lr": Range(0, 1, open_below=True, open_above=True),
    "warm_up.check_every": COUNT,
    "warm_up.check_prompts": Range(1, 10**6),
    "warm_up.layers": Range(1, 256),
    "warm_up.hidden": Range(8, 65536),
    "experts.count": Range(1, 4096),
    "experts.top_k": Range(1, 4096),
}
"""Of every option that is a number; a bound of large numbers keeps what is surely a slip of the pen from being tried."""

JOBS, SECONDS = Range(1, 4096), Range(0, 10**9)
"""Of every study: processes, and a time limit."""

NON_EMPTY = {"model", "task"}
NAMED_PATHS = {"model", "task", "objective", "run_dir", "cache_dir", "resume"}
OWN_FOLDER = {"run_dir", "cache_dir", "out"}
"""An empty name would be the current folder."""


def flag(name: str) -> str:
    """An option as it is written on the command line.

    >>> flag("warm_up.check_every")
    '--warm-up.check-every'
    """
    return f"--{name.replace('_', '-')}"


def check_values(options: Any, ranges: Mapping[str, Range] = RANGES, prefix: str = "") -> None:
    """UserError for the first option, of a dataclass or of one inside it, that is of another type or out of its range.

    An option of several numbers, which all must be in the range, has at least one.
    """
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        name, value = prefix + field.name, getattr(options, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            if not isinstance(value, hints[field.name]):
                raise UserError(f"{flag(name)}: expected a {hints[field.name].__name__}, got {value!r}")
            check_values(value, ranges, f"{name}.")
        else:
            _check_type(name, value, hints[field.name])
            _check_content(name, value, ranges.get(name))


def _check_type(name: str, value: Any, hint: Any) -> None:
    """The type that the dataclass declares. A bool is no number, and an int is a float."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is(value, kind) for kind in kinds):
        raise UserError(f"{flag(name)}: expected {' or '.join(map(_named, kinds))}, got {value!r}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is(part, get_args(kind)[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _named(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return {str: "words", int: "whole numbers", float: "numbers"}.get(
            get_args(kind)[0]
        ) or f"some of {_named(get_args(kind)[0])}"
    return {
        int: "a whole number",
        float: "a number",
        str: "a text",
        Path: "a path",
        bool: "True or False",
        NoneType: "nothing",
    }[kind]


def _check_content(name: str, value: Any, allowed: Range | None) -> None:
    if allowed is not None and value is not None:
        _check_numbers(name, value if isinstance(value, tuple) else (value,), allowed)
    if name in NON_EMPTY and not value.strip():
        raise UserError(f"{flag(name)}: expected a name, got an empty text")
    if name in OWN_FOLDER and value == Path():
        raise UserError(f"{flag(name)}: expected the name of a folder, got the current folder")
    if name in NAMED_PATHS and value is not None and str(value).partition("/")[0] == "~":
        raise UserError(
            f"{flag(name)}: {value} begins with ~, which the shell replaces in {flag(name)} {value} and not behind an equals "
            "sign; or write the whole path"
        )
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, (str, Path)) and not _writable(str(text)):
            raise UserError(f"{flag(name)}: expected a text of valid characters, got {str(text)!r}")


def _check_numbers(name: str, numbers: tuple[float, ...], allowed: Range) -> None:
    if not numbers:
        raise UserError(f"{flag(name)}: expected at least one, got none")
    for number in numbers:
        if number not in allowed:
            huge = isinstance(number, int) and math.log10(abs(number) + 1) >= 20
            shown = number if not isinstance(number, int) else "a huge number" if huge else f"{number:,}"
            raise UserError(f"{flag(name)}: expected {allowed.expected(number)}, got {shown}")


def _writable(text: str) -> bool:
    """Whether a file can hold it, and be named so: no lone surrogate (bytes that are no UTF-8), no NUL."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
