"""What the words of the command line stand for: objectives, corrections and KL estimators of the core."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Literal, TypeAlias

from gspo_core import TIS, Objective
from gspo_core.advantages import Centred, Normaliser
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
from integration.options.errors import UserError
from integration.rewards.files import load_file

OBJECTIVES = {name.lower().replace("_", "-"): preset for name, preset in PRESETS.items()}
"""Every preset of the core: GSPO is gspo, DR_GRPO is dr-grpo."""

_SHORT = (0.03, 0.04)
CLIP_RANGES = {"gspo": _SHORT, "gspo-token": _SHORT, "gate-only-gspo": _SHORT, "luspo": _SHORT, "grpo": (0.2, 0.27)}
"""For answers of about five tokens; the paper's 3e-4/4e-4 belong to answers of ten thousand (docs/clip-range.md). Objectives
that are not here have the range of their preset."""

NORMALISERS: dict[str, Normaliser] = {"dr-grpo": Centred()}
"""How rewards become advantages, where a preset's paper has another way than (r − mean)/std."""

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


def objective_named(word: str) -> Objective:
    """The preset of that name, or the objective NAME in a file of yours, from FILE.py:NAME; UserError if there is none."""
    if word in OBJECTIVES:
        return OBJECTIVES[word]
    path, _, name = word.partition(":")
    if not path.endswith(".py"):
        close = difflib.get_close_matches(word, OBJECTIVES, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"--objective: expected {', '.join(OBJECTIVES)} or FILE.py:NAME, got {word}{hint}")
    found = getattr(load_file("--objective", path), name or "OBJECTIVE", None)
    if not isinstance(found, Objective):
        got = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise UserError(f"--objective: expected {path} to have an Objective {name or 'OBJECTIVE'}, got {got}")
    return found


if TYPE_CHECKING:
    CorrectionName: TypeAlias = str
    KLName: TypeAlias = str
else:  # one list of words, for the command line and for what it stands for
    CorrectionName = Literal[tuple(CORRECTIONS)]
    KLName = Literal[tuple(KL_ESTIMATORS)]
