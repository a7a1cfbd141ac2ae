"""The options of `Config` in groups, for the command line alone: there the same names, everywhere else one flat dataclass."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

import tyro

from integration.options.config import Config, f_default

FIRST = {
    "model": ("task", "The model, its task, and how a question is put."),
    "routing_replay": ("engine", "Mixtures of experts, and a sampler that differs from the trainer."),
    "objective": ("loss", "The objective, its clip range, and a penalty."),
    "lr": ("optimizer", "AdamW, adapters, and steps that are skipped."),
    "rollouts": ("rollout", "How much is sampled, and how it is cut."),
    "train_size": ("evaluation", "Questions, evaluations and checkpoints."),
    "seed": ("machine", "Device, precision and threads."),
    "tracker": ("run", "Where a run goes, and how it goes on."),
}
"""The first option of each group, in the order of `Config`: the group's name, and what it is about."""


def from_command_line(description: str | None, default: Config | None = None) -> Config:
    """The options that were given; those left out are as in `default`."""
    kinds = {name: _kind(name, fields) for name, fields in grouped().items()}
    nested = {f.name: get_type_hints(Config)[f.name] for f in dataclasses.fields(Config) if _is_nested(f)}
    flat_names: Any = tyro.conf.OmitArgPrefixes
    members: list[Any] = [(name, flat_names[kind], _new(kind)) for name, kind in kinds.items()]
    members += [(name, kind, _new(kind)) for name, kind in nested.items()]
    whole: Any = dataclasses.make_dataclass("Options", members, frozen=True)
    whole.__doc__ = Config.__doc__
    given: dict[str, Any] = {}
    if default is not None:
        parts = {
            name: kind(**{f.name: getattr(default, f.name) for f in dataclasses.fields(kind)}) for name, kind in kinds.items()
        }
        given["default"] = whole(**parts, **{name: getattr(default, name) for name in nested})
    parsed = tyro.cli(whole, description=description, **given)
    flat = {name: getattr(parsed, name) for name in nested}
    for name, kind in kinds.items():
        flat |= {f.name: getattr(getattr(parsed, name), f.name) for f in dataclasses.fields(kind)}
    return Config(**flat)


def grouped() -> dict[str, list[dataclasses.Field[Any]]]:
    """The options of each group, in their order; those with options inside are groups themselves."""
    found: dict[str, list[dataclasses.Field[Any]]] = {}
    name = ""
    for field in dataclasses.fields(Config):
        name = FIRST.get(field.name, (name, ""))[0]
        if not _is_nested(field):
            found.setdefault(name, []).append(field)
    return found


def _kind(name: str, fields: list[dataclasses.Field[Any]]) -> Any:
    """A dataclass of these options, with the texts that stand behind them in the source."""
    hints, helps = get_type_hints(Config), dict(_helps())
    members: list[Any] = [
        (f.name, Annotated[hints[f.name], tyro.conf.arg(help=helps.get(f.name, ""))], dataclasses.field(default=f.default))
        for f in fields
    ]
    kind = dataclasses.make_dataclass(name, members, frozen=True)
    kind.__doc__ = dict(FIRST.values())[name]
    return kind


def _new(kind: Any) -> Any:
    return dataclasses.field(default_factory=kind)


def _is_nested(field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(f_default(field))


def _helps() -> Iterator[tuple[str, str]]:
    """(option, the string behind it in the source of `Config`)."""
    (body,) = ast.parse(inspect.getsource(Config)).body
    assert isinstance(body, ast.ClassDef)
    for field, text in pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            yield field.target.id, " ".join(ast.literal_eval(text.value).split())
