"""What the words of the command line stand for: objectives, corrections and KL estimators of the core."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from gspo_core import TIS, Objective
from gspo_core.advantages import Centred, Normaliser
from gspo_core.kl import K1, K2, K3, Capped, KAbs, KLEstimator, SequenceK2, SequenceKL, TokenKL
from gspo_core.mismatch import (
    ICEPOP,
    MIS,
    Correction,
    GeometricWeight,
    MeanAbsolute,
    MeanK3,
    ProductWeight,
    Reject,
    TokensInside,
    Truncate,
)
from gspo_core.objectives import PRESETS, FixedLength, Region
from integration.options.errors import UserError
from integration.options.words import CorrectionName, KLName, require_objective

OBJECTIVES = {name.lower().replace("_", "-"): preset for name, preset in PRESETS.items()}
"""Every preset of the core: GSPO is gspo, DR_GRPO is dr-grpo."""

_SHORT = (0.03, 0.04)
CLIP_RANGES = {"gspo": _SHORT, "gspo-token": _SHORT, "gate-only-gspo": _SHORT, "luspo": _SHORT, "grpo": (0.2, 0.27)}
"""For answers of about five tokens; the paper's 3e-4/4e-4 belong to answers of ten thousand (docs/clip-range.md). Objectives
that are not here have the range of their preset."""

NORMALISERS: dict[str, Normaliser] = {"dr-grpo": Centred()}
"""How rewards become advantages, where a preset's paper has another way than (r − mean)/std."""

CORRECTIONS: dict[CorrectionName, Correction | None] = {
    "none": None,
    "tis": TIS,
    "icepop": ICEPOP,
    "mis": MIS,
    "sequence-tis": Correction(ProductWeight(), Truncate(2.0)),
    "reject-mean": Correction(GeometricWeight(), Reject(0.9, 1.1, drop=False)),
    "reject-absolute": Correction(MeanAbsolute(), Reject(0.0, 1.2, drop=False)),
    "reject-k3": Correction(MeanK3(), Reject(0.0, 1.02, drop=False)),
    "veto": Correction(TokensInside(1e-4, math.inf), Reject(1.0, math.inf, drop=False)),
}
"""Corrections that keep every response in the denominator: those that drop responses would have to see the ones without an
advantage, too, which are never run. The bounds are for answers of a few tokens; GEO_RS's band of 0.1 % is for thousands."""

KL_ESTIMATORS: dict[KLName, KLEstimator | None] = {
    "none": None,
    "k1": K1(),
    "k2": K2(),
    "k3": K3(),
    "abs": KAbs(),
    "token": TokenKL(),
    "sequence": SequenceKL(),
    "sequence-k2": SequenceK2(),
}


def objective_named(word: str) -> Objective:
    """The preset of that name, or the objective NAME in a file of yours, from FILE.py:NAME; UserError if there is none."""
    if word in OBJECTIVES:
        return OBJECTIVES[word]
    require_objective(word)
    path, _, name = word.partition(":")
    from integration.rewards.files import load_file  # noqa: PLC0415 (a twentieth of a second, for files alone)

    found = getattr(load_file("--objective", path), name or "OBJECTIVE", None)
    if not isinstance(found, Objective):
        got = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise UserError(f"--objective: expected {path} to have an Objective {name or 'OBJECTIVE'}, got {got}")
    return found


def built_objective(word: str, clip_low: float | None, clip_high: float | None, max_new_tokens: int) -> Objective:
    """`objective_named` with this clip range, or trust region; UserError for one that it refuses or does not have."""
    preset = objective_named(word)
    if word == "dr-grpo":  # its constant is the generation budget
        preset = replace(preset, reduction=FixedLength(max_new_tokens))
    place = "gate" if isinstance(preset.gate, Region) else "surrogate"
    bounded: Any = getattr(preset, place)
    given = {"low": clip_low, "high": clip_high}
    widths = dict(zip(given, CLIP_RANGES.get(word, ()), strict=False))
    widths |= {name: width for name, width in given.items() if width is not None}
    for name in widths:
        if not hasattr(bounded, name):
            raise UserError(f"--clip-{name}: --objective {word} has no clip range, but {bounded}")
    try:
        return preset if not widths else replace(preset, **{place: replace(bounded, **widths)})
    except ValueError as error:
        raise UserError(f"--clip-{error}") from error


def capped(word: KLName, cap: float | None) -> KLEstimator | None:
    """The estimator of that name, whose penalty sees differences up to the cap; None for no penalty."""
    estimator = KL_ESTIMATORS[word]
    return estimator if estimator is None or cap is None else Capped(estimator, cap)
