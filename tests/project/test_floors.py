"""The core imports NumPy, array_api_compat and the standard library, each floor only from below, and no framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gspo_core

ROOT = Path(gspo_core.__file__).parent
FRAMEWORKS = ("torch", "jax", "tensorflow", "cupy", "dask", "matplotlib")

FLOORS = [
    {"types"},
    {"_lib"},
    {"layouts", "advantages", "kl", "routing"},
    {"objectives"},
    {"clip_range", "planning", "selection", "backend"},
    {"mismatch"},
    {"metrics"},
    {"__init__"},
    {"laws"},
    {"__main__"},
]
"""Folders and modules of the core from the ground up. A room imports from lower floors and from inside itself."""


def module(path: Path) -> str:
    """A file's dotted name inside the core: `objectives.loss`, or `objectives.__init__`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def imported(source: str) -> frozenset[str]:
    """Every module that a source file imports, anywhere in it; relative ones with their leading dots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            own = "." * node.level + (node.module or "")
            separator = "." if node.module else ""
            inner = own.startswith(".") or own.split(".")[0] == "gspo_core"
            names |= {own + separator + alias.name for alias in node.names} if inner else {own}
    return frozenset(names)


def own_module(importer: str, name: str) -> str | None:
    """The module of the core that an import means; None for other packages."""
    level = len(name) - len(name.lstrip("."))
    if not level and name.split(".", maxsplit=1)[0] != "gspo_core":
        return None
    above = importer.split(".")[:-1]
    parts = above[: len(above) - level + 1] + name.lstrip(".").split(".") if level else name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if ROOT.joinpath(*parts[:length]).is_dir():
            return ".".join([*parts[:length], "__init__"])
        if ROOT.joinpath(*parts[:length]).with_suffix(".py").is_file():
            return ".".join(parts[:length])
    return "__init__"


def needs(name: str, source: str) -> set[str]:
    """Modules of the core that a module imports."""
    return {found for found in (own_module(name, x) for x in imported(source)) if found}


def floor(name: str) -> int:
    """The floor of a module's room."""
    return next(i for i, rooms in enumerate(FLOORS) if name.split(".", maxsplit=1)[0] in rooms)


def not_below(name: str, source: str) -> set[str]:
    """Imports of a module that come neither from its own room nor from a lower floor."""
    room = name.split(".", maxsplit=1)[0]
    return {other for other in needs(name, source) if other.split(".")[0] != room and floor(other) >= floor(name)}


def foreign(source: str, name: str = "kl") -> set[str]:
    """Imports that are neither the standard library nor allowed; only the laws know hypothesis."""
    allowed = {*sys.stdlib_module_names, "numpy", "array_api_compat", "gspo_core"}
    allowed |= {"hypothesis"} if name.startswith("laws.") else set()
    return {name for name in imported(source) if not name.startswith(".") and name.split(".")[0] not in allowed}


def first_circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


SOURCES = {module(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
"""The text of every module of the core."""


def test_a_module_imports_nothing_foreign() -> None:
    assert {name: found for name, source in SOURCES.items() if (found := foreign(source, name))} == {}


def test_only_the_array_boundary_knows_array_api_compat() -> None:
    knows = [name for name, source in SOURCES.items() if any(x.split(".")[0] == "array_api_compat" for x in imported(source))]
    assert knows == ["_lib.array"]


def test_a_floor_imports_only_from_below() -> None:
    assert {name: found for name, source in SOURCES.items() if (found := not_below(name, source))} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: needs(name, source) - {name} for name, source in SOURCES.items()}
    assert len(graph) > 50
    assert first_circle(graph) == []


def test_a_circle_would_be_found() -> None:
    assert first_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not first_circle({"a": {"b", "c"}, "b": {"c"}})


@pytest.mark.parametrize(
    "source",
    ["import torch", "from torch import nn", "def f():\n    import jax.numpy as jnp", "if True:\n    import scipy.stats, math"],
)
def test_a_foreign_import_would_be_found(source: str) -> None:
    assert foreign(source)
    assert foreign("import hypothesis")
    assert not foreign("import math, numpy.linalg\nfrom array_api_compat import device\nfrom .types import Array")


@pytest.mark.parametrize(
    "source",
    ["from gspo_core.metrics.batch import batch_metrics", "from gspo_core import GSPO", "import gspo_core.laws.kit.law"],
)
def test_an_import_from_beside_or_above_would_be_found(source: str) -> None:
    assert not_below("objectives.ratios", source)
    assert not not_below("objectives.ratios", "from .loss import gated\nfrom gspo_core._lib.array import namespace")


def loaded_frameworks(statement: str) -> list[str]:
    """Frameworks in sys.modules after a statement, in a fresh interpreter that can import them."""
    code = f"import sys; {statement}; print(*(name for name in {FRAMEWORKS!r} if name in sys.modules))"
    path = [str(ROOT.parent), str(ROOT.parent / "backends")]
    script = f"import sys; sys.path[:0] = {path!r}\n{code}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return result.stdout.split()


@pytest.mark.slow
def test_importing_and_using_the_core_loads_no_framework() -> None:
    use = "gspo_core.group_advantages([1.0, 0.0], [0, 0])"
    assert loaded_frameworks(f"import gspo_core; {use}") == []
    assert loaded_frameworks("import gspo_core; assert 'hypothesis' not in sys.modules") == []


@pytest.mark.slow
def test_checking_a_numpy_loss_loads_no_framework() -> None:
    """The laws load a framework by name when a loss turns out not to be NumPy."""
    assert (
        loaded_frameworks("from gspo_core import GSPO, laws; assert laws.check(GSPO, examples=1, laws=laws.LAWS[:2]).ok") == []
    )


@pytest.mark.slow
def test_a_framework_would_be_noticed() -> None:
    assert loaded_frameworks("import gspo_torch") == ["torch"]
