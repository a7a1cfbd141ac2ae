"""The block of docs/in-your-trainer.md."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from gspo_torch.trainers.skyrl import UTILS
from support.pages import DOCS, blocks, run, section

PAGE = (DOCS / "in-your-trainer.md").read_text(encoding="utf-8")


def test_the_block_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(section(PAGE, "SkyRL"))
    registry: dict[str, Any] = {}
    ppo = SimpleNamespace(PolicyLossRegistry=SimpleNamespace(register=registry.__setitem__))
    monkeypatch.setitem(sys.modules, UTILS + "ppo_utils", ppo)
    run(block.code, {"__name__": "page"}, "in-your-trainer.md")
    assert list(registry) == ["gspo_core_gspo"]
