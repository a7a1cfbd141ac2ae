"""What a package exports is what it says it exports, documented, and the examples in its docstrings run."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import pkgutil
import sys
import types
from pathlib import Path
from typing import Any

import gspo_jax
import gspo_plots
import gspo_torch
import pytest

import gspo_core
import gspo_core.laws

PACKAGES = [gspo_core, gspo_torch, gspo_jax, gspo_plots]
MODULES = [
    name
    for package in PACKAGES
    for name in [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
]
by_package = pytest.mark.parametrize("package", [*PACKAGES, gspo_core.laws], ids=lambda package: package.__name__)


def public(namespace: Any) -> set[str]:
    """Names without an underscore that are not modules; `annotations` is the __future__ import."""
    names = {name for name in vars(namespace) if not name.startswith("_") and name != "annotations"}
    return {name for name in names if not isinstance(getattr(namespace, name), types.ModuleType)}


def undocumented(module: Any) -> list[str]:
    """Public functions, classes and methods that the module defines without a docstring."""
    found = []
    for name in public(module):
        thing = getattr(module, name)
        if getattr(thing, "__module__", None) != module.__name__ or not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        methods = [m for m in vars(thing).values() if inspect.isfunction(m)] if inspect.isclass(thing) else []
        own = [
            m
            for m in methods
            if (m.__module__ == module.__name__ and not m.__name__.startswith("_")) or m.__name__ == "__call__"
        ]
        # A dataclass or NamedTuple without a docstring gets its signature as one.
        found += [x.__qualname__ for x in (thing, *own) if not x.__doc__ or x.__doc__.startswith(f"{x.__name__}(")]
    return found


@by_package
def test_all_is_what_is_there(package: types.ModuleType) -> None:
    assert set(package.__all__) == public(package)
    assert len(package.__all__) == len(set(package.__all__))
    assert list(package.__all__) == sorted(package.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name))


@by_package
def test_the_package_says_what_it_is(package: types.ModuleType) -> None:
    assert package.__doc__


def test_the_promised_names_exist() -> None:
    promised = "Padded Objective Loss policy_loss group_advantages GSPO GSPO_TOKEN GRPO Clip SequenceMean TokenMean"
    assert set(promised.split()) <= set(gspo_core.__all__)
    assert {"policy_loss", "token_logp"} <= set(gspo_torch.__all__) & set(gspo_jax.__all__)


def test_same_name_same_arguments() -> None:
    core, *others = (inspect.signature(p.policy_loss).parameters for p in PACKAGES[:3])
    for other in others:
        assert list(core) == list(other)
        assert [p.kind for p in core.values()] == [p.kind for p in other.values()]
        assert [p.default for p in core.values()] == [p.default for p in other.values()]


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert undocumented(module) == []


def test_a_missing_docstring_would_be_found() -> None:
    module = types.ModuleType("bare")
    exec("def naked(): pass\nclass Bare:\n    def method(self): pass\n", vars(module))
    for thing in (module.naked, module.Bare):
        thing.__module__ = "bare"
    assert {"naked", "Bare"} <= set(undocumented(module))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def attribute_docstrings(source: str) -> dict[str, str]:
    """name ↦ the string that stands under its assignment: the documentation of a value, which help() cannot see."""
    found = {}
    body = ast.parse(source).body
    for this, following in itertools.pairwise(body):
        named = isinstance(this, ast.Assign) and isinstance(this.targets[0], ast.Name)
        if named and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found[this.targets[0].id] = str(following.value.value)
    return found


def documentation(package: types.ModuleType, name: str) -> tuple[str, dict[str, Any]]:
    """(docstring of a public name, what its examples may use): of the thing itself, never an inherited one."""
    thing = getattr(package, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        own = thing.__doc__ if inspect.isfunction(thing) else vars(thing).get("__doc__")
        # A dataclass or NamedTuple without a docstring gets its signature as one.
        text = "" if own is None or own.startswith(f"{name}(") else own
        return text, vars(sys.modules[thing.__module__])
    for module in (importlib.import_module(m) for m in MODULES if m.startswith(package.__name__ + ".")):
        if name in (told := attribute_docstrings(inspect.getsource(module))):
            return told[name], vars(module)
    return "", {}


def lacking(package: types.ModuleType, name: str) -> list[str]:
    """What the documentation of a public name lacks."""
    text, scope = documentation(package, name)
    thing = getattr(package, name)
    parts = [] if text else ["a docstring"]
    parts += [] if ">>> " in text else ["an example"]
    if inspect.isfunction(thing):
        of_core = "those of the core" in text
        parts += [part for part in ("Returns", "Raises") if part not in text and not of_core]
        parts += [] if "Args:" in text or of_core or len(inspect.signature(thing).parameters) < 2 else ["Args:"]
    elif inspect.isclass(thing) and "__post_init__" in vars(thing):
        parts += [] if "Error" in text else ["its errors"]
    test = doctest.DocTestParser().get_doctest(text, dict(scope), name, None, None)
    return parts + ["a right example"] * bool(doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None).failed)


NAMES = [(package, name) for package in PACKAGES for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{package.__name__}.{name}" for package, name in NAMES])
def test_a_public_name_is_documented_with_an_example_that_runs(package: types.ModuleType, name: str) -> None:
    """Values too: what stands under a preset's assignment."""
    assert lacking(package, name) == []


BARE = '''
def f(x, y):
    """Adds.

    >>> 1 + 1
    3
    """
class C:
    def __post_init__(self):
        raise ValueError
V = 1
'''


def test_what_documentation_lacks_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gspo_bare.py").write_text(BARE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("gspo_bare")
    assert lacking(module, "f") == ["Returns", "Raises", "Args:", "a right example"]
    assert lacking(module, "C") == ["a docstring", "an example", "its errors"]
    assert lacking(module, "V") == ["a docstring", "an example"]
    assert attribute_docstrings("A = 1\n'told'\nB = 2\nC = 3\n") == {"A": "told"}


def test_a_wrong_example_would_be_found() -> None:
    module = types.ModuleType("wrong", ">>> 1 + 1\n3\n")
    runner = doctest.DocTestRunner(verbose=False)
    (example,) = doctest.DocTestFinder().find(module, module=False)
    assert runner.run(example, out=lambda _: None).failed == 1
