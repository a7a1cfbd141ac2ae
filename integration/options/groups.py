"""The options of `Config` in groups, for the command line alone: there the same names, everywhere else one flat dataclass."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from integration.options.config import Config, f_default

FIRST = {
    "model": ("task", "The model, its task, and how a question is put."),
    "routing_replay": ("engine", "Mixtures of experts, and a sampler that differs from the trainer."),
    "objective": ("loss", "The objective, its clip range, and a penalty."),
    "lr": ("optimizer", "AdamW, adapters, and steps that are skipped."),
    "rollouts": ("rollout", "How much is sampled, and how it is cut."),
    "train_size": ("evaluation", "Questions, evaluations and checkpoints."),
    "parallel": ("processes", "Several processes, started by torchrun, or a mesh of devices in JAX."),
    "seed": ("machine", "Device, precision and threads."),
    "tracker": ("run", "Where a run goes, and how it goes on."),
}
"""The first option of each group, in the order of `Config`: the group's name, and what it is about."""


def from_command_line(description: str | None, default: Config | None = None) -> Config:
    """The options that were given; those left out are as in `default`."""
    kinds = {name: _kind(name, fields) for name, fields in grouped().items()}
    nested = {f.name: f_default(f) for f in dataclasses.fields(Config) if _is_nested(f)}
    inner = {name: _inner(type(value)) for name, value in nested.items()}
    flat_names: Any = tyro.conf.OmitArgPrefixes
    members: list[Any] = [(name, flat_names[_described(kind)], _new(kind)) for name, kind in kinds.items()]
    members += [(name, _described(kind), _new(kind)) for name, kind in inner.items()]
    whole: Any = dataclasses.make_dataclass("Options", members, frozen=True)
    whole.__doc__ = Config.__doc__
    given: dict[str, Any] = {}
    if default is not None:
        parts = {name: _with_values_of(default, kind) for name, kind in kinds.items()}
        parts |= {name: _with_values_of(getattr(default, name), kind) for name, kind in inner.items()}
        given["default"] = whole(**parts)
    parsed = tyro.cli(whole, description=description, **given)
    flat = {name: _with_values_of(getattr(parsed, name), type(value)) for name, value in nested.items()}
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
    return _with_texts(name, dict(FIRST.values())[name], Config, fields)


def _inner(kind: type[Any]) -> Any:
    """The same of options inside an option; its text and that of its class describe them."""
    (name,) = (f.name for f in dataclasses.fields(Config) if type(f_default(f)) is kind)
    return _with_texts(kind.__name__, f"{_texts(Config)[name]} {kind.__doc__}", kind, dataclasses.fields(kind))


def _with_texts(name: str, about: str, source: Any, fields: Iterable[dataclasses.Field[Any]]) -> Any:
    hints, texts = get_type_hints(source), _texts(source)
    members: list[Any] = [
        (
            f.name,
            Annotated[_plain(hints[f.name]), tyro.conf.arg(help=texts.get(f.name, ""))],
            dataclasses.field(default=f.default),
        )
        for f in fields
    ]
    kind = dataclasses.make_dataclass(name, members, frozen=True)
    kind.__doc__ = about
    return kind


def _plain(hint: Any) -> Any:
    """The type in a spelling whose defaults tyro checks by itself; for others it imports typeguard, a tenth of a second."""
    if get_origin(hint) is UnionType:
        return Union[get_args(hint)]  # noqa: UP007 (X | Y is the other spelling)
    return Annotated[tuple, WORDS] if hint == tuple[str, ...] else hint


WORDS: Any = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*", metavar="[STR [STR ...]]", instance_from_str=tuple, str_from_instance=list,
    is_instance=lambda words: isinstance(words, tuple),
)  # fmt: skip
"""Any number of words."""


def _described(kind: Any) -> Any:
    """Its text said outright: tyro would read source files for it, which takes longer than everything else here."""
    return Annotated[kind, tyro.conf.arg(help=kind.__doc__)]


def _with_values_of(one: Any, kind: Any) -> Any:
    return kind(**{f.name: getattr(one, f.name) for f in dataclasses.fields(kind)})


def _new(kind: Any) -> Any:
    return dataclasses.field(default_factory=kind)


def _is_nested(field: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(f_default(field))


@cache
def _texts(kind: Any) -> dict[str, str]:
    """The string behind each option in the source of its dataclass."""
    tree = ast.parse(Path(sys.modules[kind.__module__].__file__ or "").read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found
