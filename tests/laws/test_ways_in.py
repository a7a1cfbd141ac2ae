"""The three ways in: pytest, a function, a command; each says the same, and their answers are not vacuous."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.repository import ROOT
from torch import Tensor

from gspo_core import GSPO, laws
from gspo_core.laws.cli import main
from gspo_core.laws.mutants import gspo
from gspo_core.laws.mutants.mutant import LIKE

WRONG = "gspo_core.laws.mutants.clip:mirrored_for_negative"
RIGHT = "gspo_core.laws.mutants:gspo"
BAND = ["--clip", "0.2", "0.3", "--examples", "5"]


@laws.conformance(gspo, LIKE, examples=10)
def test_pytest_gets_one_test_per_law(law: laws.Law) -> None: ...


def run_pytest(tmp_path: Path, name: str) -> str:
    """What pytest prints about a conformance test of a loss."""
    (tmp_path / "test_it.py").write_text(
        "from gspo_core import laws\nfrom gspo_core.laws.mutants.mutant import LIKE, gspo\n"
        "from gspo_core.laws.mutants.weighting import token_sum\n\n"
        f"@laws.conformance({name}, LIKE, examples=5)\ndef test_mine(law): ...\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={"PYTHONPATH": str(ROOT)})
    return result.stdout + result.stderr


def test_a_broken_law_fails_its_test_with_both_numbers(tmp_path: Path) -> None:
    printed = run_pytest(tmp_path, "token_sum")
    assert "every response weighs the same, whatever its length" in printed
    assert "loss says" in printed
    assert "law says" in printed
    assert " failed" in printed
    assert " passed" in printed


def torch_gspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5 in PyTorch."""
    d = torch.where(mask, logp, 0) - torch.where(mask, old_logp, 0)
    s = (d.sum(-1) / mask.sum(-1).clamp(min=1)).clamp(max=50).exp()
    gain = torch.minimum(s * advantage, s.clamp(0.8, 1.3) * advantage)
    return -torch.where(mask.any(-1), gain, 0).sum() / mask.any(-1).sum().clamp(min=1)


def torch_detached(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """A mutant: the ratio is detached."""
    return torch_gspo(logp.detach(), old_logp, advantage, mask) + 0 * logp.nan_to_num().sum()


def test_a_torch_loss_is_recognised_and_differentiated_by_autograd() -> None:
    report = laws.check(torch_gspo, LIKE, examples=10)
    assert report.framework == "torch"
    names = {v.law.name for v in report.broken}
    # exp is guarded by a clamp here, so that the loss is flat beyond e⁵⁰; nothing else is wrong with it.
    assert names == set(), str(report)
    assert "the gradient is the derivative of the value" in {v.law.name for v in report.kept}
    assert "the gradient is the derivative of the value" in {
        v.law.name for v in laws.check(torch_detached, LIKE, examples=10).broken
    }


def test_a_loss_with_keywords_and_another_order() -> None:
    def trainer_loss(advantages: object, log_prob: object, response_mask: object, old_log_prob: object) -> tuple:
        return gspo(log_prob, old_log_prob, advantages, response_mask > 0), {"metric": 1.0}

    names = laws.Names("log_prob", "old_log_prob", "advantages", "response_mask", float_mask=True)
    assert laws.check(trainer_loss, LIKE, names=names, examples=5).ok


def test_what_cannot_be_called_is_refused_with_the_reasons() -> None:
    with pytest.raises(TypeError, match=r"logp, old_logp, advantage, mask.*\n.*numpy"):
        laws.check(lambda x: x)
    with pytest.raises(TypeError, match="expected an Objective or a function"):
        laws.check(3)


def test_the_command_says_what_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "card.json", tmp_path / "card.html"
    assert main([WRONG, *BAND, "--json", str(files[0]), "--html", str(files[1])]) == 1
    printed, card, page = capsys.readouterr().out, json.loads(files[0].read_text()), files[1].read_text()
    broken = [law["law"] for law in card["laws"] if law["status"] == "broken"]
    assert "an unclipped unit is live, however far from 1 on its other side" in broken
    assert all(f"BROKEN: {name}" in printed for name in broken)
    assert "loss says" in page
    assert "<script" not in page


def test_the_command_profiles(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([WRONG, "--profile", "--examples", "2", "--html", str(tmp_path / "x.html")]) == 1
    assert "MIRRORED" in capsys.readouterr().out
    assert "MIRRORED" in (tmp_path / "x.html").read_text()
    assert main([RIGHT, "--profile", "--examples", "2"]) == 0


def test_the_commands_mistakes_are_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["nowhere:loss"], ["gspo_core.laws.mutants"], [RIGHT, "--like", "nobody"], ["gspo_core:missing"]):
        assert main(wrong) == 2
        assert "gspo-laws: " in capsys.readouterr().err


def test_an_objective_is_like_itself() -> None:
    assert laws.check(GSPO, examples=2).like == "GSPO"
