"""Every option has its legal range: what is outside is refused at once, in one sentence that names the option."""

from __future__ import annotations

import dataclasses
import io
import math
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.options.command_line import command_line
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.ranges import RANGES
from integration.options.sizes import Experts, WarmUp

ODD: list[Any] = [-1, 0, -1.0, 0.0, math.nan, math.inf, -math.inf, 1e30, 10**30, True, "", "\ud800", "a\0b", [], [1], {}, None]
NESTED = {"warm_up": WarmUp, "experts": Experts}
OPTIONS = [f.name for f in dataclasses.fields(Config) if f.name not in NESTED]
OPTIONS += [f"{outer}.{f.name}" for outer, kind in NESTED.items() for f in dataclasses.fields(kind)]

ZERO = {"shots", "lr_warm_up", "eval_every", "seed"}
ZERO_OR_ANY_NUMBER = {"lr", "clip_low", "clip_high", "router_noise", "warm_up.target", "kl_coefficient"}
NOTHING = {
    "sampler_dtype",
    "clip_low",
    "clip_high",
    "clip_fraction",
    "micro_batch_size",
    "micro_batch_tokens",
    "threads",
    "run_dir",
    "resume",
}
NOTHING |= {"resume_step", "kl_cap", "lora_rank", "lora_alpha", "parallel"}
FLAGS = {"gradient_checkpointing"}
PENALTY = {"kl_coefficient": {"kl": "k3"}, "kl_cap": {"kl": "k3", "kl_coefficient": 0.1}, "lora_alpha": {"lora_rank": 4}}
"""What an option needs beside it."""


def legal(name: str, value: Any) -> bool:
    """Which of the odd values an option takes: written down by hand, apart from the ranges."""
    if value is None:
        return name in NOTHING
    if isinstance(value, bool):
        return name in FLAGS
    if isinstance(value, (list, dict)):
        return False
    if isinstance(value, str):
        return name == "instruction" and value == ""
    if value != 0:
        return False
    return name in ZERO_OR_ANY_NUMBER or (name in ZERO and isinstance(value, int))


def made(name: str, value: Any) -> Config:
    """A run of a mixture of experts with this option."""
    outer, _, inner = name.partition(".")
    changed = {outer: NESTED[outer](**{inner: value})} if inner else {outer: value}
    return Config(**{"model": "small-moe", **PENALTY.get(name, {}), **changed})


@pytest.mark.parametrize("name", OPTIONS)
def test_odd_values_are_legal_or_refused_in_one_sentence(name: str) -> None:
    for value in ODD:
        if legal(name, value):
            made(name, value)
            continue
        with pytest.raises(UserError) as refused:
            made(name, value)
        said = str(refused.value)
        assert said.startswith(f"--{name.replace('_', '-')}"), (value, said)
        assert "\n" not in said
        assert len(said) < 250, "no number of hundreds of digits"


@given(name=st.sampled_from(sorted(RANGES)), value=st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.booleans()))
def test_a_number_is_taken_only_within_its_range(name: str, value: Any) -> None:
    try:
        made(name, value)
    except UserError:
        return
    else:
        assert not isinstance(value, (str, bool))
        assert math.isfinite(value)
        assert RANGES[name].least <= value <= RANGES[name].most


def test_every_number_has_a_range() -> None:
    for kind, prefix in ((Config, ""), (WarmUp, "warm_up."), (Experts, "experts.")):
        for field in dataclasses.fields(kind):
            is_number = bool({"int", "float"} & set(str(field.type).split()))
            assert (prefix + field.name in RANGES) == is_number, field.name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"warm_up": WarmUp(hidden=20), "model": "small"}, "--warm-up.hidden: expected a multiple of 8"),
        ({"warm_up": WarmUp(max_steps=9), "model": "small"}, "--warm-up.check-every: expected at most the 9"),
        ({"experts": Experts(64, 32), "warm_up": WarmUp(hidden=8), "model": "small-moe"}, "--experts.top-k: expected at most"),
        ({"shots": 9, "train_size": 8}, "--shots: expected at most the 8 of --train-size, got 9"),
        ({"task_args": ("",)}, "--task-args: expected key=value, got ''"),
        ({"template_args": ("a",)}, "--template-args: expected key=value, got 'a'"),
        ({"run_dir": Path()}, "--run-dir: expected the name of a folder"),
        ({"run_dir": Path("~/run")}, "--run-dir: ~/run begins with ~, which the shell replaces in --run-dir ~/run"),
        ({"model": "~/model"}, "--model: ~/model begins with ~"),
        ({"task": "~/task.py"}, "--task: ~/task.py begins with ~"),
        ({"objective": "~/loss.py:MINE"}, "--objective: ~/loss.py:MINE begins with ~"),
        ({"resume_step": 3}, "--resume-step: goes with --resume and a new --run-dir"),
    ],
)
def test_values_that_only_fail_later_are_refused_at_once(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        Config(**options)


def on_the_command_line(name: str, word: str) -> Iterator[Config]:
    """The options that the training script would start with; none if the command line is refused."""
    taken: list[Config] = []

    def train(config: Config) -> int:
        taken.append(config)
        return 0

    others = [part for key, value in PENALTY.get(name, {}).items() for part in (f"--{key.replace('_', '-')}", str(value))]
    line = ["train_torch.py", "--model", "small-moe", *others, f"--{name.replace('_', '-')}", *([word] if word != "[]" else [])]
    before, sys.argv = sys.argv, line
    try:
        with redirect_stderr(io.StringIO()) as said, redirect_stdout(io.StringIO()):
            status: Any = command_line(train, "Train.")
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv = before
    assert status == (0 if taken else 2), said.getvalue()
    assert "Traceback" not in said.getvalue()
    yield from taken


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_odd_words_on_the_command_line_are_legal_or_refused(name: str) -> None:
    words = {"-1": -1, "0": 0, "nan": math.nan, "inf": math.inf, "-inf": -math.inf, "1e30": 1e30, "": "", "[]": []}
    textual = {"model", "task", "instruction", "resume", "run_dir", "cache_dir"}
    for word, value in words.items():
        taken = list(on_the_command_line(name, word))
        if name in textual and word not in ("", "[]"):
            continue  # a name like any other: what it names is looked for by the trainer
        if name in {"task_args", "template_args"}:
            assert bool(taken) == (word == "[]")
        elif name in FLAGS:
            assert [getattr(config, name) for config in taken] == ([True] if word == "[]" else [])
        else:
            assert bool(taken) == legal(name, value), (word, taken)
