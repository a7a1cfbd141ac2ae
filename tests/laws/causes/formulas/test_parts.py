"""Gates and surrogates with a part exchanged, missing, or on one side are told by the presets' own parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.explained import explained

from gspo_core import GRPO, Objective
from gspo_core.laws.causes.formulas.parts import BySign
from gspo_core.laws.mutants.mutant import gain, log_s, mean, ratios, token_mean
from gspo_core.objectives import ASPO, CISPO, DEEPSEEK_V3_2, DPPO, FSPO, GMPO, SAPO, VESPO
from gspo_core.objectives.clipped_surrogates import Unclipped
from gspo_core.objectives.gates import TokenClip
from gspo_core.objectives.held_weights import BandWeight
from gspo_core.objectives.soft_surrogates import GammaWeight

FOREIGN = replace(GMPO, gate=TokenClip(0.3, 0.5))
CASES: list[tuple[str, Objective, Objective]] = [
    ("k pos and k neg of the surrogate are exchanged", replace(VESPO, surrogate=GammaWeight(3.0, 3.0, 2.0, 2.0)), VESPO),
    ("lam pos and lam neg of the surrogate are exchanged", replace(VESPO, surrogate=GammaWeight(2.0, 2.0, 3.0, 3.0)), VESPO),
    ("the bounds of the token clip are swapped", replace(GMPO, gate=TokenClip(0.5, 0.3)), FOREIGN),
    ("the gate is missing: Band", replace(FSPO, gate=None), FSPO),
    ("units whose ratio is above the cap 5 are dropped", replace(CISPO, surrogate=BandWeight(1e-300, 5.0)), CISPO),
    *(
        (
            f"{type(like.surrogate).__name__} acts on bad responses only",
            replace(like, surrogate=BySign(Unclipped(), like.surrogate, like.surrogate.exact)),
            like,
        )
        for like in (SAPO, CISPO, VESPO, ASPO)
    ),
    *(
        (f"the surrogate is that of the preset {name}", replace(GRPO, surrogate=like.surrogate), GRPO)
        for name, like in (("SAPO", SAPO), ("CISPO", CISPO), ("VESPO", VESPO), ("ASPO", ASPO))
    ),
    (
        "a token outside the trust region is taken away whatever its advantage",
        replace(DPPO, gate=replace(DPPO.gate, either_side=True)),  # type: ignore[type-var]
        DPPO,
    ),
    (
        "a token outside the trust region is taken away only where its advantage pushes it outwards",
        DPPO,
        replace(DPPO, gate=replace(DPPO.gate, either_side=True)),  # type: ignore[type-var]
    ),
]


@pytest.mark.parametrize(("words", "wrong", "like"), CASES, ids=[words for words, *_ in CASES])
def test_each_part_has_its_own_words(words: str, wrong: Objective, like: Objective) -> None:
    assert words in explained(wrong, like)


@pytest.mark.parametrize(
    ("words", "stale"),
    [
        ("acts on bad and good responses", lambda x, a: (a != 0) & (x < -0.5)),
        ("looks at the wrong side", lambda x, a: (a < 0) & (x > 0.5)),
    ],
)
def test_the_off_policy_mask_of_other_responses_is_named(words: str, stale: Any) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        gains = token_mean(gain(ratios(logp, old, mask), a[:, None], 0.2, 0.2), mask)
        return mean(np.where(stale(log_s(logp, old, mask), a), 0.0, gains), mask)

    assert words in explained(loss, DEEPSEEK_V3_2)
