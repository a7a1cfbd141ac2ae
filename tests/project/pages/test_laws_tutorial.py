"""docs/new-variant.md runs, and prints what it shows."""

from __future__ import annotations

import contextlib
import io
import re
from functools import partial
from typing import Any

import pytest
from support.repository import ROOT

from gspo_core import laws

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "new-variant.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python)?\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_block_runs_and_prints_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # The page's losses show what they are on the anchors of the laws; 60 random cases a law take half a minute more.
    for name in ("check", "profile"):
        monkeypatch.setattr(laws, name, partial(getattr(laws, name), examples=5))
    scope: dict[str, Any] = {"__name__": "tutorial"}
    printed = ""
    for language, text in BLOCKS:
        if language == "python":
            assert printed == "", f"printed, but not shown: {printed}"
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "docs/new-variant.md", "exec", dont_inherit=True), scope)
            printed = out.getvalue()
        else:
            assert printed == text
            printed = ""
    assert printed == ""
    assert sum(not language for language, _ in BLOCKS) == 6
    assert callable(scope["test_my_loss"])
