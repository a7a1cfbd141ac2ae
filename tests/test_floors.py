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
    {"mismatch", "pilot", "plan", "presets"},
    {"clip_range", "engine_gap", "findings", "metrics", "readings"},
    {"diagnose"},
    {"__init__"},
    {"laws/batch", "laws/oracle"},
    {"laws/claim"},
    {"laws/setting", "laws/subject"},
    {"laws/_frameworks", "laws/law", "laws/packing", "laws/strategies"},
    {"laws/compare"},
    {f"laws/{name}" for name in ["clip", "credit", "extras", "masks", "numerics", "paper", "parts", "ratio", "reduction"]},
    {f"laws/{name}" for name in ["algebra", "edges", "extremes", "layouts", "reports", "tokens"]},
    {"laws/fraction", "laws/rewards"},
    {"laws/catalogue"},
    {"laws/runner"},
    {"laws/report"},
    {"laws/checking", "laws/document"},
    {"laws/conformance", "laws/measure"},
    {"laws/profiling"},
    {"laws/page"},
    {"laws/mutants/mutant"},
    {f"laws/mutants/{name}" for name in ["beside", "clip", "credit", "layouts", "ratio", "reports", "weighting"]},
    {"laws/mutants/__init__", "laws/cli"},
    {"laws/__init__"},
]


def module(path: Path) -> str:
    """A file's name as it stands in FLOORS."""
    return path.relative_to(ROOT).with_suffix("").as_posix()


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


def foreign(source: str, name: str = "ratios") -> set[str]:
    """Imports that are neither the standard library nor allowed; only the laws know hypothesis."""
    allowed = {*sys.stdlib_module_names, "numpy", "array_api_compat", "gspo_core"}
    allowed |= {"hypothesis"} if name.startswith("laws/") else set()
    return {name for name in imported(source) if not name.startswith(".") and name.split(".")[0] not in allowed}


def not_below(name: str, source: str) -> set[str]:
    """Siblings of the package that a module may not import: its own floor and everything above."""
    floor = next(i for i, names in enumerate(FLOORS) if name in names)
    below = set().union(*FLOORS[:floor])
    return {found for found in (own_module(name, x) for x in imported(source)) if found} - below


def own_module(importer: str, name: str) -> str | None:
    """The file of this package that an import means, as in FLOORS; None for other packages."""
    level = len(name) - len(name.lstrip("."))
    if not level and not name.startswith("gspo_core."):
        return None
    above = importer.split("/")[:-1]
    base = above[: len(above) - level + 1] if level else []
    parts = [*base, *(name.lstrip(".") if level else name.removeprefix("gspo_core.")).split(".")]
    return "/".join([*parts, "__init__"] if (ROOT.joinpath(*parts)).is_dir() else parts)


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_module_imports_nothing_foreign(path: Path) -> None:
    assert foreign(path.read_text(), module(path)) == set()


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_only_the_array_boundary_knows_array_api_compat(path: Path) -> None:
    knows = any(name.split(".")[0] == "array_api_compat" for name in imported(path.read_text()))
    assert knows == (module(path) == "_array")


@pytest.mark.parametrize("path", SOURCES, ids=module)
def test_a_floor_imports_only_from_below(path: Path) -> None:
    """Siblings never import each other; there are no circles."""
    assert not_below(module(path), path.read_text()) == set()


def test_every_module_has_a_floor() -> None:
    assert {module(path) for path in SOURCES} == set().union(*FLOORS)


@pytest.mark.parametrize(
    "source",
    ["import torch", "from torch import nn", "def f():\n    import jax.numpy as jnp", "if True:\n    import scipy.stats, math"],
)
def test_a_foreign_import_would_be_found(source: str) -> None:
    assert foreign(source)
    assert foreign("import hypothesis")
    assert not foreign("import math, numpy.linalg\nfrom array_api_compat import device\nfrom .types import Array")


@pytest.mark.parametrize("source", ["from .surrogates import Clip", "from . import objective", "import gspo_core.presets"])
def test_an_import_from_beside_or_above_would_be_found(source: str) -> None:
    assert not_below("ratios", source)
    assert not not_below("ratios", "from ._array import namespace\nfrom .types import Array")
    assert not_below("laws/mutants/clip", "from ..cli import main")
    assert not not_below("laws/mutants/clip", "from ..claim import Claim\nfrom ...objective import Objective")


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
    assert loaded_frameworks("import gspo_core; assert 'hypothesis' not in sys.modules") == []


def test_checking_a_numpy_loss_loads_no_framework() -> None:
    """The laws load a framework by name when a loss turns out not to be NumPy."""
    assert (
        loaded_frameworks("from gspo_core import GSPO, laws; assert laws.check(GSPO, examples=1, laws=laws.LAWS[:2]).ok") == []
    )


def test_a_framework_would_be_noticed() -> None:
    assert loaded_frameworks("import gspo_torch") == ["torch"]
