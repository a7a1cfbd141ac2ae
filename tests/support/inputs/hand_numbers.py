"""Losses computed by hand from the papers, on which all other oracles depend.

Two sequences, of 2 and 1 tokens, clip range (0.2, 0.3). Token ratios 2 and 1/2 in the first, 2 in the second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, SequenceToken, TokenMean

LOG2 = 0.6931471805599453
OLD = np.array([[-1.0, -1.0], [-1.0, np.nan]])
LOGP = OLD + np.array([[LOG2, -LOG2], [LOG2, 0.0]])
MASK = np.array([[True, True], [True, False]])
WIDE = Clip(0.2, 0.3)

# (objective, advantage per sequence, value, weight, clipped units), by hand:
# GSPO: s = (1, 2). A = (1, −1): gains (1, −2); nothing is clipped: for A < 0 only the lower bound exists.
#   A = (−1, 1): gains (−1, 1.3), the second is clipped.
# GRPO: w = ((2, ½), (2)). A = (1, −1): gains ((1.3, ½), (−2)), mean (0.9, −2). A = (−1, 1): ((−2, −0.8), (1.3)).
HAND = [
    ("GSPO", replace(GSPO, surrogate=WIDE), [1, -1], 0.5, [[-0.25, -0.25], [1.0, 0.0]], [False, False]),
    ("GSPO clipped", replace(GSPO, surrogate=WIDE), [-1, 1], -0.15, [[0.25, 0.25], [0.0, 0.0]], [False, True]),
    (
        "GSPO_TOKEN",
        replace(GSPO_TOKEN, surrogate=WIDE),
        [1, -1],
        0.5,
        [[-0.25, -0.25], [1.0, 0.0]],
        [[False, False], [False, False]],
    ),
    (
        "GRPO",
        GRPO.__class__(GRPO.ratio, WIDE, GRPO.reduction),
        [1, -1],
        0.55,
        [[0.0, -0.125], [1.0, 0.0]],
        [[True, False], [False, False]],
    ),
    ("GRPO clipped", replace(GRPO, surrogate=WIDE), [-1, 1], 0.05, [[0.5, 0.0], [0.0, 0.0]], [[False, True], [True, False]]),
    (
        "GRPO, TokenMean",
        replace(GRPO, surrogate=WIDE, reduction=TokenMean()),
        [1, -1],
        0.2 / 3,
        [[0, -0.5 / 3], [2 / 3, 0]],
        [[True, False], [False, False]],
    ),
    (
        "GSPO_TOKEN, TokenMean",
        Objective(SequenceToken(), WIDE, TokenMean()),
        [1, -1],
        0.0,
        [[-1 / 3, -1 / 3], [2 / 3, 0]],
        [[False, False], [False, False]],
    ),
]
