"""Every batch that a law hands to a loss holds log-probs: no number above 0 at a token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gspo_core import GRPO, GSPO, Objective, laws
from gspo_core.laws.chapters.arrays.sizes import SIZES
from gspo_core.laws.kit.runner import run
from gspo_core.laws.kit.setting import Setting

STEP = 1e-5
"""Finite differences go this far beyond 0."""
LARGE = {law.name for law in SIZES[1:]}
"""Laws about thousands of tokens take a second each; one clip range is enough for them."""


@pytest.mark.slow
@pytest.mark.parametrize("like", [GSPO, GSPO.with_clip(0.2, 0.28), GRPO], ids=["paper", "wide", "tokens"])
def test_no_law_hands_out_a_probability_above_one(like: Objective) -> None:
    inner = laws.subject_of(like)
    above: dict[str, float] = {}
    asked = ""

    def call(inputs: dict[str, Any]) -> Any:
        mask = np.asarray(inputs["mask"]) > 0
        for name in ("logp", "old_logp"):
            values = np.asarray(inputs[name])[mask]
            highest = float(np.max(values[np.isfinite(values)], initial=-np.inf))
            if highest > STEP:
                above[f"{asked}: {name}"] = highest
        return inner.call(inputs)

    watched = replace(inner, call=call)
    setting = Setting(like, inner.claims(like))
    for law in laws.LAWS:
        asked = law.name
        if like == GSPO or law.name not in LARGE:
            run(law, watched, setting, 0, 8)
    assert above == {}
