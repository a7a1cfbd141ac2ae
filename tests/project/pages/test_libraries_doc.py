"""docs/libraries.md: its rows are the suite's libraries and what is run on them, its code runs, its exceptions are raised."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.budgets import assert_within
from support.cells import CELLS, IN_PAIRS, OF_EVERYTHING_ELSE
from support.family import MEMBERS, PRESETS
from support.inputs.arrangements import ARRANGEMENTS
from support.libraries import EVERYWHERE
from support.repository import ROOT

from gspo_core import (
    TIS,
    Clip,
    Objective,
    Packed,
    Padded,
    TokenMean,
    Turns,
    group_advantages,
    kl_penalty,
    policy_loss,
    sampler_weight,
)
from gspo_core.kl import K3
from gspo_core.objectives import Turn, TurnMean

PAGE = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
SUITE = re.findall(r"^\| `([\w.]+)` \| (.+) \| (\d+) \| (all|in pairs) \| (.+) \|$", PAGE, flags=re.MULTILINE)
OTHERS = re.findall(r"^\| `(\w+)` ([\d.]+) \| (.+) \| (.+) \|$", PAGE, flags=re.MULTILINE)


def test_the_rows_are_the_suite() -> None:
    combinations = {(cell.library.name, cell.arrangement.name, cell.dtype) for cell in CELLS}
    layouts, cells = Counter(name for name, *_ in combinations), Counter(cell.library.name for cell in CELLS)
    found = [(name, int(count), cells[name] == int(count) * len(MEMBERS)) for name, _, count, *_ in SUITE]
    assert found == [(library.name, layouts[library.name], library not in IN_PAIRS) for library in EVERYWHERE]
    assert [how == "all" for _, _, _, how, _ in SUITE] == [complete for *_, complete in found]
    assert {name for name, *_, said in SUITE if said == "yes"} == {library.name for library in OF_EVERYTHING_ELSE}
    assert len(ARRANGEMENTS) == 6
    (paragraph,) = [text for text in PAGE.split("\n\n") if "cells are chosen by pairs" in " ".join(text.split())]
    assert set(re.findall(r"`([\w.]+)`", paragraph)) == {library.name for library in IN_PAIRS}


@pytest.mark.slow
def test_the_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(code, "libraries.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["-1.0", "[-1.", "-1.]"]


MASK = np.array([[True, True, False], [True, False, False]])


def losses(array: Any, numpy: Any, name: str, packed: bool) -> None:
    """The loss of a preset is NumPy's."""
    objective, x, old = PRESETS[name], np.array([[0.1, -0.2, np.nan], [0.3, np.inf, 0.0]]), np.zeros((2, 3))
    advantage, ids = np.array([1.0, -1.0]), np.where(MASK, np.arange(2)[:, None], -1)

    def loss(of: Any) -> Any:
        layout = Packed(of(ids.reshape(-1)), 2) if packed else Padded(of(MASK))
        return policy_loss(objective, *(of(y.reshape(-1) if packed else y) for y in (x, old)), of(advantage), layout)

    found, expected = loss(array), loss(np.array)
    for a, e in zip(found[:4], expected[:4], strict=True):
        assert_within(numpy(a), e, 1e-12 * np.max(np.abs(e), initial=1.0))


def module(name: str) -> ModuleType:
    """It, if it is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: ModuleType = pytest.importorskip(name)
        return found


def others(array: Any) -> None:
    """Sampler weights and KL."""
    logp = array(np.zeros((2, 3)))
    sampler_weight(TIS, logp, logp, Padded(array(MASK)))
    kl_penalty(K3(), logp, logp, Padded(array(MASK)), reduction=TokenMean())


def test_sparse() -> None:
    sparse = module("sparse")
    assert (OTHERS[0][0], sparse.__version__[: len(OTHERS[0][1])]) == ("sparse", OTHERS[0][1])

    def array(x: Any) -> Any:
        return sparse.COO.from_numpy(np.asarray(x))

    for name in PRESETS:
        losses(array, lambda x: x.todense(), name, packed=False)
    others(array)
    with pytest.raises(AttributeError, match="arange"):
        losses(array, lambda x: x.todense(), "GSPO", packed=True)
    with pytest.raises(AttributeError, match="argsort"):
        group_advantages(array(np.ones(2)), array(np.zeros(2, dtype=int)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_ndonnx() -> None:
    ndonnx = module("ndonnx")
    assert (OTHERS[1][0], ndonnx.__version__[: len(OTHERS[1][1])]) == ("ndonnx", OTHERS[1][1])

    def array(x: Any) -> Any:
        return ndonnx.asarray(np.asarray(x))

    for name in PRESETS:
        for packed in (False, True):
            losses(array, lambda x: x.unwrap_numpy(), name, packed)
    others(array)
    assert group_advantages(array(np.array([1.0, 0.0])), array(np.array([3, 3]))).unwrap_numpy().tolist() == [1.0, -1.0]
    layout, zeros = Turns(Padded(array(MASK)), array(np.zeros((2, 3), dtype=int)), 2), array(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="int64"):
        policy_loss(Objective(Turn(), Clip(0.2, 0.2), TurnMean()), zeros, zeros, array(np.ones(2)), layout)
