"""@laws.conformance makes one pytest test per law, with ids that pytest -k can select and failures that show both numbers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.repository import ROOT

from gspo_core import GSPO, Clip, laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.mutants import gspo
from gspo_core.laws.mutants.mutant import LIKE

pytestmark = pytest.mark.slow


@laws.conformance(gspo, LIKE, examples=10)
def test_pytest_gets_one_test_per_law(law: laws.Law) -> None: ...


def run_pytest(folder: Path, name: str, *options: str) -> str:
    """The output of pytest for a conformance test of a loss."""
    (folder / "test_it.py").write_text(
        "from gspo_core import laws\nfrom gspo_core.laws.mutants.mutant import LIKE, gspo\n"
        "from gspo_core.laws.mutants.reduction import token_sum\n\n"
        f"@laws.conformance({name}, LIKE, examples=5)\ndef test_mine(law): ...\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={"PYTHONPATH": str(ROOT)})
    return result.stdout + result.stderr


def test_a_broken_law_fails_its_test_with_both_numbers(tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, "token_sum", "-k", "same-weight-whatever or padding")
    assert "every response has the same weight, whatever its length" in printed
    assert "loss returns" in printed
    assert "law requires" in printed
    assert " failed" in printed
    assert " passed" in printed


def test_ids_are_readable_and_can_be_selected(tmp_path: Path) -> None:
    """Names with ε or ⁵⁰ would be escaped in pytest's summary, and names with spaces cannot be given to -k."""
    printed = run_pytest(tmp_path, "gspo", "-rA", "-k", "ratios-below-e50")
    assert "test_it.py::test_mine[no-overflow-guard-changes-ratios-below-e50]\n" in printed
    assert "1 passed" in printed


def test_a_law_that_no_case_could_have_broken_is_skipped_and_says_so() -> None:
    """No batch has units inside a clip range of width 0."""
    narrow = replace(GSPO, surrogate=Clip(0.0, 0.0))

    @laws.conformance(narrow, narrow, examples=2)
    def test_narrow(law: laws.Law) -> None: ...

    test_narrow(named("the loss equals numbers computed by hand"))
    with pytest.raises(pytest.skip.Exception, match="untested: no case could have broken it"):
        test_narrow(named("the clip range reaches from 1 − ε_low to 1 + ε_high"))
