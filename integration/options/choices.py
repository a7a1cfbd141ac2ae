"""What the words of the command line stand for: objectives, corrections and KL estimators of the core."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from gspo_core import TIS
from gspo_core.kl import K1, K2, K3, KAbs, KLEstimator, SequenceK2, SequenceKL, TokenKL
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
from gspo_core.objectives import PRESETS

OBJECTIVES = {name.lower().replace("_", "-"): preset for name, preset in PRESETS.items()}
"""Every preset of the core: GSPO is gspo, DR_GRPO is dr-grpo."""

_SHORT = (0.03, 0.04)
CLIP_RANGES = {"gspo": _SHORT, "gspo-token": _SHORT, "gate-only-gspo": _SHORT, "luspo": _SHORT, "grpo": (0.2, 0.27)}
"""For answers of about five tokens; the paper's 3e-4/4e-4 belong to answers of ten thousand (docs/clip-range.md). Objectives
that are not here have the range of their preset."""

CORRECTIONS: dict[str, Correction | None] = {
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

KL_ESTIMATORS: dict[str, KLEstimator | None] = {
    "none": None,
    "k1": K1(),
    "k2": K2(),
    "k3": K3(),
    "abs": KAbs(),
    "token": TokenKL(),
    "sequence": SequenceKL(),
    "sequence-k2": SequenceK2(),
}

if TYPE_CHECKING:
    ObjectiveName: TypeAlias = str
    CorrectionName: TypeAlias = str
    KLName: TypeAlias = str
else:  # one list of words, for the command line and for what it stands for
    ObjectiveName = Literal[tuple(OBJECTIVES)]
    CorrectionName = Literal[tuple(CORRECTIONS)]
    KLName = Literal[tuple(KL_ESTIMATORS)]
