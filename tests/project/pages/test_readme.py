"""The README: short, its code runs, and its commands exist."""

from __future__ import annotations

import math
import re
import tomllib
from typing import Any

import gspo_torch
import pytest
import torch
from support.pages import blocks, run
from support.repository import ROOT

from gspo_core import GSPO, Padded, batch_metrics, diagnose, group_metrics, merge, plan

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK_START, SEVEN_LINES, BEFORE_AND_AFTER = [block.code for block in blocks(README)]


def test_it_is_short_and_has_one_picture_of_a_committed_run() -> None:
    assert len(README.splitlines()) <= 160
    assert len(re.findall(r"!\[[^\]]*\]\(docs/results/[\w-]+/\w+\.png\)", README)) == len(re.findall(r"!\[", README)) == 1


def test_the_quick_start_prints_a_loss_its_gradient_and_who_is_clipped() -> None:
    value, *rest = run(QUICK_START, {}, "README.md").split("\n", 1)
    # −(1/4)(e^1e-4 − e^2e-4 − (1 − 3e-4) + (1 + 4e-4)), by hand to second order
    assert float(value) == pytest.approx(-(1e-4 - 2e-4 + 7e-4) / 4, abs=1e-8)
    assert "[False False  True  True]" in rest[0]


def test_the_seven_lines_are_seven_and_take_a_training_step() -> None:
    assert len(SEVEN_LINES.strip().splitlines()) == 7
    torch.manual_seed(0)
    mask = torch.arange(5)[None, :] < torch.tensor([5, 2, 4, 1])[:, None]
    hidden, lm_head = torch.randn(4, 5, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    tokens = torch.randint(50, (4, 5))
    old_logp = gspo_torch.token_logp(hidden, lm_head, tokens).detach()
    scope: dict[str, Any] = {
        **{f.__name__: f for f in (plan, Padded, batch_metrics, group_metrics, merge, diagnose)},
        "GSPO": GSPO,
        "gspo_torch": gspo_torch,
        "rewards": torch.tensor([1.0, 0.0, 0.0, 1.0]),
        "group_ids": torch.tensor([7, 7, 9, 9]),
        "mask": mask.float(),
        "hidden": hidden,
        "lm_head": lm_head,
        "tokens": tokens,
        "old_logp": old_logp,
    }
    printed = run(SEVEN_LINES, scope, "README.md")
    assert "as it should be" in printed, "on policy the loss is 0, and the printed sentence explains it"
    # REINFORCE with a length-normalised gradient, from full logits
    logp = torch.log_softmax(hidden @ lm_head.T, -1).gather(-1, tokens[..., None])[..., 0]
    mean = torch.where(mask, logp, 0.0).sum(1) / mask.sum(1)
    (expected,) = torch.autograd.grad(-(torch.tensor([1.0, -1.0, -1.0, 1.0]) * mean).mean(), lm_head)
    assert lm_head.grad is not None
    torch.testing.assert_close(lm_head.grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [[4, 4, 4], [1, 2, 6]])
def test_before_and_after_differ_by_the_length_of_the_responses_and_by_nothing_else(lengths: list[int]) -> None:
    torch.manual_seed(1)
    mask = (torch.arange(6)[None, :] < torch.tensor(lengths)[:, None]).double()
    old_logp, adv = -torch.rand(3, 6, dtype=torch.float64), torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    logp = old_logp + 0.3 * torch.randn(3, 6, dtype=torch.float64)
    given = {"logp": logp, "old_logp": old_logp, "mask": mask, "adv": adv}
    scope: dict[str, Any] = {**given, "torch": torch, "gspo_torch": gspo_torch, "GSPO": GSPO, "Padded": Padded}
    run(BEFORE_AND_AFTER, scope, "README.md")
    gains = []
    for i, length in enumerate(lengths):
        s = math.exp(sum((logp[i, t] - old_logp[i, t]).item() for t in range(length)) / length)
        gains.append(min(s * adv[i].item(), min(max(s, 0.8), 1.2) * adv[i].item()))
    assert scope["after"].item() == pytest.approx(-sum(gains) / 3, abs=1e-12)
    weighted = sum(length * gain for length, gain in zip(lengths, gains, strict=True)) / sum(lengths)
    assert scope["before"].item() == pytest.approx(-weighted, abs=1e-12)
    assert (abs(scope["before"] - scope["after"]) < 1e-12) == (len(set(lengths)) == 1)


def test_the_commands_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"train-small", "test"} <= named <= targets
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
    assert set(re.findall(r"\.\[([a-z-]+)\]", README)) <= extras
