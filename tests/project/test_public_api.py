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
import gspo_scale
import gspo_torch
import pytest

import gspo_core
import gspo_core.laws

PACKAGES = [gspo_core, gspo_torch, gspo_jax, gspo_plots, gspo_scale]
MODULES = [
    name
    for package in PACKAGES
    for name in [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
    if ".trainers." not in name
]
"""Adapters import other people's trainers, which only the environment of tests/trainers has."""
NO_HOMES = {"gspo_core.types", "gspo_core.backend", "gspo_core.laws"}
"""Protocols, which the packages that they belong to export; the contract of backends, likewise; and the conformance kit."""
HOMES = [
    importlib.import_module(name)
    for name in (f"gspo_core.{m.name}" for m in pkgutil.iter_modules(gspo_core.__path__) if not m.name.startswith("_"))
    if name not in NO_HOMES
]
"""The concepts of the core: a public name is at home in one of them, and everyday names are at the root as well."""
by_package = pytest.mark.parametrize("package", [*PACKAGES, *HOMES, gspo_core.laws], ids=lambda package: package.__name__)


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


def exported(module: types.ModuleType) -> set[str]:
    """What a module offers: everything public in a package, and what it defines itself in a module of one file."""
    names = public(module)
    return (
        names
        if hasattr(module, "__path__")
        else {n for n in names if getattr(getattr(module, n), "__module__", None) == module.__name__}
    )


@by_package
def test_all_is_what_is_there(package: types.ModuleType) -> None:
    assert set(package.__all__) == exported(package)
    assert len(package.__all__) == len(set(package.__all__))


def homes_of(name: str) -> list[types.ModuleType]:
    """The concepts that export a name."""
    return [home for home in HOMES if name in home.__all__]


def test_a_public_name_has_one_home_and_the_root_has_only_names_from_there() -> None:
    assert len(HOMES) > 5
    for name in {name for home in HOMES for name in home.__all__}:
        assert len(homes_of(name)) == 1, f"{name} is in {[home.__name__ for home in homes_of(name)]}"
    for name in gspo_core.__all__:
        assert [getattr(home, name) for home in homes_of(name)] == [getattr(gspo_core, name)]


def shadowed(package: types.ModuleType, submodules: set[str]) -> set[str]:
    """Submodules that `package.name` does not reach, since the package has something else of that name."""
    return {name for name in submodules if not isinstance(vars(package).get(name, package), types.ModuleType)}


def test_nothing_public_has_the_name_of_a_module_beside_it() -> None:
    packages = [module for module in map(importlib.import_module, MODULES) if hasattr(module, "__path__")]
    assert len(packages) > 10
    for package in packages:
        assert shadowed(package, {m.name for m in pkgutil.iter_modules(package.__path__)}) == set(), package.__name__


def test_a_function_that_hides_a_module_would_be_found() -> None:
    package = types.ModuleType("p")
    vars(package).update(plan=len, kl=types.ModuleType("p.kl"))
    assert shadowed(package, {"plan", "kl", "not_imported"}) == {"plan"}


@by_package
def test_the_package_says_what_it_is(package: types.ModuleType) -> None:
    assert package.__doc__


def test_the_backends_have_the_names_of_the_core() -> None:
    assert {"policy_loss", "linear_policy_loss", "token_logp"} <= set(gspo_torch.__all__) & set(gspo_jax.__all__)


def test_same_name_same_arguments() -> None:
    core, *others = (inspect.signature(p.policy_loss).parameters for p in PACKAGES[:3])
    for other in others:
        assert list(core) == list(other)
        assert [p.kind for p in core.values()] == [p.kind for p in other.values()]
        assert [p.default for p in core.values()] == [p.default for p in other.values()]


def test_everything_public_has_a_docstring() -> None:
    assert len(MODULES) > 100
    for module in map(importlib.import_module, MODULES):
        assert module.__doc__, module.__name__
        assert undocumented(module) == [], module.__name__


def test_a_missing_docstring_would_be_found() -> None:
    module = types.ModuleType("bare")
    exec("def naked(): pass\nclass Bare:\n    def method(self): pass\n", vars(module))
    for thing in (module.naked, module.Bare):
        thing.__module__ = "bare"
    assert {"naked", "Bare"} <= set(undocumented(module))


SLOW = ("gspo_jax", "gspo_core.laws.", "gspo_torch.routing.replay")
"""JAX compiles its examples, the kit checks a loss in each of its own, and routes are replayed in a model of transformers."""
EXAMPLES = [pytest.param(name, marks=pytest.mark.slow if name.startswith(SLOW) else ()) for name in MODULES]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def attribute_docstrings(source: str) -> dict[str, str]:
    """name ↦ the string under its assignment: the documentation of a value, which help() cannot see."""
    found = {}
    for this, following in itertools.pairwise(ast.parse(source).body):
        targets = this.targets if isinstance(this, ast.Assign) else [this.target] if isinstance(this, ast.AnnAssign) else []
        if targets and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            found |= {t.id: str(following.value.value) for t in targets if isinstance(t, ast.Name)}
    return found


def documentation(package: types.ModuleType, name: str) -> tuple[str, dict[str, Any]]:
    """(docstring of a public name, what its examples may use): of the thing itself, never an inherited one."""
    thing = getattr(package, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        own = thing.__doc__ if inspect.isfunction(thing) else vars(thing).get("__doc__")
        # A dataclass or NamedTuple without a docstring gets its signature as one.
        text = "" if own is None or own.startswith(f"{name}(") else own
        return text, vars(sys.modules[thing.__module__])
    for module in (importlib.import_module(m) for m in MODULES if f"{m}.".startswith(f"{package.__name__}.")):
        if name in (found := attribute_docstrings(inspect.getsource(module))):
            return found[name], vars(module)
    return "", {}


def lacking(package: types.ModuleType, name: str) -> list[str]:
    """What the documentation of a public name lacks.

    The examples of functions and classes run with those of their module; nothing else runs a value's.
    """
    text, scope = documentation(package, name)
    thing = getattr(package, name)
    value = not (inspect.isclass(thing) or inspect.isfunction(thing))
    parts = [] if text else ["a docstring"]
    parts += [] if ">>> " in text else ["an example"]
    if inspect.isfunction(thing):
        of_core = "those of the core" in text
        parts += [part for part in ("Returns", "Raises") if part not in text and not of_core]
        parts += [] if "Args:" in text or of_core or len(inspect.signature(thing).parameters) < 2 else ["Args:"]
    elif inspect.isclass(thing) and "__post_init__" in vars(thing):
        parts += [] if "Error" in text else ["its errors"]
    if not value:
        return parts
    test = doctest.DocTestParser().get_doctest(text, dict(scope), name, None, None)
    return parts + ["a right example"] * bool(doctest.DocTestRunner(verbose=False).run(test, out=lambda _: None).failed)


NAMES = [(package, name) for package in [*HOMES, *PACKAGES[1:]] for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[f"{package.__name__}.{name}" for package, name in NAMES])
def test_a_public_name_is_documented_with_an_example(package: types.ModuleType, name: str) -> None:
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
"""One.

>>> V + 1
3
"""
W = 1
'''


def test_what_documentation_lacks_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gspo_bare.py").write_text(BARE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(globals(), "MODULES", ["gspo_bare"])
    module = importlib.import_module("gspo_bare")
    assert lacking(module, "f") == ["Returns", "Raises", "Args:"]
    assert lacking(module, "C") == ["a docstring", "an example", "its errors"]
    assert lacking(module, "V") == ["a right example"]
    assert lacking(module, "W") == ["a docstring", "an example"]
    assert attribute_docstrings("A = 1\n'an A'\nB: int = 2\n'a B'\nC = 3\nD = 4\n") == {"A": "an A", "B": "a B"}


def test_a_wrong_example_would_be_found() -> None:
    module = types.ModuleType("wrong", ">>> 1 + 1\n3\n")
    runner = doctest.DocTestRunner(verbose=False)
    (example,) = doctest.DocTestFinder().find(module, module=False)
    assert runner.run(example, out=lambda _: None).failed == 1
