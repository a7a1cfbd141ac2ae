"""The README's quick starts run, and the commands it names exist."""

from __future__ import annotations

import re

import pytest
from support.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_STARTS = re.findall(r"## Quick start: (\w+)\n\n```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_three_quick_starts() -> None:
    assert [name for name, _ in QUICK_STARTS] == ["NumPy", "PyTorch", "JAX"]


@pytest.mark.parametrize(("name", "code"), QUICK_STARTS)
def test_the_quick_start_runs(name: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    exec(compile(code, f"README.md, {name}", "exec"), scope)
    if name == "NumPy":
        printed = capsys.readouterr().out
        assert "[False False  True  True]" in printed
        # −(1/4)(e^1e-4 − e^2e-4 − (1 − 3e-4) + (1 + 4e-4)), by hand to second order
        assert float(printed.split()[0]) == pytest.approx(-(1e-4 - 2e-4 + 7e-4) / 4, abs=1e-8)


def test_the_commands_it_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
