"""The block of docs/in-your-trainer.md: what it replaces is made and called by OpenRLHF's actor, in the words of its text."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gspo_torch.trainers.openrlhf import PolicyLoss
from support.pages import DOCS, blocks, run, section

from gspo_core import GSPO

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")
ACTOR = "openrlhf.trainer.ray.ppo_actor"
TEXT = Path(str(importlib.metadata.distribution("openrlhf").locate_file(ACTOR.replace(".", "/") + ".py"))).read_text("utf-8")
DEFAULTS: dict[str, Any] = {"policy_loss_type": "ppo", "token_level_loss": False, "dual_clip": None}
DEFAULTS |= {"clip_eps_low": 3e-4, "clip_eps_high": 4e-4, "is_correction_level": "off", "is_correction_mode": "mask"}
DEFAULTS |= {"is_correction_gating": "ratio", "is_correction_threshold": [0.5, 5.0]}


def keywords(name: str) -> set[str]:
    """What the actor passes by name to a function or method."""
    (call,) = (x for x in ast.walk(ast.parse(TEXT)) if isinstance(x, ast.Call) and ast.unparse(x.func) == name)
    return {keyword.arg for keyword in call.keywords if keyword.arg}


def test_the_block_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's import wants flash-attn: a module of the same name stands in its place."""
    (block,) = blocks(section(PAGE, "OpenRLHF"))
    names = ACTOR.split(".")
    modules = [ModuleType(".".join(names[: k + 1])) for k in range(len(names))]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for above, below in pairwise(modules):
        setattr(above, below.__name__.rpartition(".")[2], below)
    scope: dict[str, Any] = {"__name__": "page"}
    run(block.code, scope, "in-your-trainer.md")
    scope["setup"]()
    assert keywords("PolicyLoss") == set(DEFAULTS)
    made = modules[-1].PolicyLoss(**DEFAULTS)
    assert made.objective == GSPO
    assert keywords("self.actor_loss_fn") <= set(inspect.signature(PolicyLoss.forward).parameters)
