"""The core imports NumPy, array_api_compat and the standard library, each floor only from below, and no framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gspo_core

ROOT = Path(gspo_core.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
FRAMEWORKS = ("torch", "jax", "tensorflow", "cupy", "dask", "matplotlib")

FLOORS = [
    {"types"},
    {"_array", "_checks", "_units"},
    {"_door", "_sketch"},
    {"_ledger"},
    {"bounds", "layouts", "normalisers"},
    {"restricted", "_measured"},
    {"dialogue"},
    {
        "advantages",
        "correction",
        "kl",
        "turns",
        "router_shift",
        "gates",
        "ratios",
        "surrogates",
        "soft_surrogates",
        "reductions",
    },
    {"_log_ratios", "drift", "objective"},
    {"mismatch", "pilot", "presets"},
    {"clip_range", "engine_gap", "findings", "metrics", "readings"},
    {"diagnose"},
    {"__init__"},
]


def imported(source: str) -> set[str]:
    """Every module that a source file imports, anywhere in it; relative ones with a leading dot."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            own = "." * node.level + (node.module or "")
            names |= {own} if node.module else {own + alias.name for alias in node.names}
    return names


def foreign(source: str) -> set[str]:
    """Imports that are neither the standard library nor allowed."""
    allowed = {*sys.stdlib_module_names, "numpy", "array_api_compat", "gspo_core"}
    return {name for name in imported(source) if not name.startswith(".") and name.split(".")[0] not in allowed}


def not_below(module: str, source: str) -> set[str]:
    """Siblings of the package that a module may not import: its own floor and everything above."""
    floor = next(i for i, names in enumerate(FLOORS) if module in names)
    below = set().union(*FLOORS[:floor])
    own = {name.split(".")[1] for name in imported(source) if name.startswith((".", "gspo_core."))}
    return own - below


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_imports_nothing_foreign(path: Path) -> None:
    assert foreign(path.read_text()) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_the_array_boundary_knows_array_api_compat(path: Path) -> None:
    knows = any(name.split(".")[0] == "array_api_compat" for name in imported(path.read_text()))
    assert knows == (path.name == "_array.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_floor_imports_only_from_below(path: Path) -> None:
    """Siblings never import each other; there are no circles."""
    assert not_below(path.stem, path.read_text()) == set()


def test_every_module_has_a_floor() -> None:
    assert {path.stem for path in SOURCES} == set().union(*FLOORS)


@pytest.mark.parametrize(
    "source",
    ["import torch", "from torch import nn", "def f():\n    import jax.numpy as jnp", "if True:\n    import scipy.stats, math"],
)
def test_a_foreign_import_would_be_found(source: str) -> None:
    assert foreign(source)
    assert not foreign("import math, numpy.linalg\nfrom array_api_compat import device\nfrom .types import Array")


@pytest.mark.parametrize("source", ["from .surrogates import Clip", "from . import objective", "import gspo_core.presets"])
def test_an_import_from_beside_or_above_would_be_found(source: str) -> None:
    assert not_below("ratios", source)
    assert not not_below("ratios", "from ._array import namespace\nfrom .types import Array")


def loaded_frameworks(statement: str) -> list[str]:
    """Frameworks in sys.modules after a statement, in a fresh interpreter that can import them."""
    code = f"import sys; {statement}; print(*(name for name in {FRAMEWORKS!r} if name in sys.modules))"
    path = [str(ROOT.parent), str(ROOT.parent / "backends")]
    script = f"import sys; sys.path[:0] = {path!r}\n{code}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return result.stdout.split()


def test_importing_and_using_the_core_loads_no_framework() -> None:
    use = "gspo_core.group_advantages([1.0, 0.0], [0, 0])"
    assert loaded_frameworks(f"import gspo_core; {use}") == []


def test_a_framework_would_be_noticed() -> None:
    assert loaded_frameworks("import gspo_torch") == ["torch"]
