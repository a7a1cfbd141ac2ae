"""Importance ratios: which log ratio a unit has, and how its gradient goes back to the tokens.

d_it = logp_it − old_logp_it. Each ratio is three linear maps of d (see `types.Ratio`); that GSPO-token and GSPO share
the first and differ in the other two is all there is to the paper's stop-gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gspo_core._lib.units import by_turn, flat, mean_over_tokens, turns_of
from gspo_core.types import Array, Layout


@dataclass(frozen=True)
class Token:
    """log w_it = d_it, one ratio per token; pull-back g ↦ g.

    Source: GRPO, arXiv 2402.03300, eq. 3 (PPO's ratio).

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> Token().log_ratio(np.array([[0.5, 9.0]]), Padded(np.array([[True, False]]))).tolist()
    [[0.5, 0.0]]
    """

    per_token: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself."""
        return layout.select(d)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)


@dataclass(frozen=True)
class Sequence:
    """log s_i = (1/|y_i|) Σ_t d_it, one ratio per sequence; pull-back g_i ↦ g_i/|y_i| on every token.

    There is no token axis to sum over, so a length-weighted mean cannot be written by accident.
    Source: GSPO, arXiv 2507.18071, eq. 7 and 10.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True], [True, False]]))
    >>> Sequence().log_ratio(np.array([[0.25, 0.75], [1.0, 9.0]]), layout).tolist()
    [0.5, 1.0]
    >>> Sequence().pull_back(np.array([1.0, 1.0]), layout).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    per_token: ClassVar[bool] = False

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """[N] log s_i, 0 for an empty sequence."""
        return layout.sum_selected(d) / layout.safe_lengths(d)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """[N] the mean of d over each sequence."""
        return mean_over_tokens(d, layout)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g_i/|y_i|."""
        return layout.spread(g / layout.safe_lengths(g))


@dataclass(frozen=True)
class SequenceToken:
    """log s_it = log s_i at every token, but moving with its own token only: s_it = sg[s_i] · π(y_it)/sg[π(y_it)].

    Pull-back g_it ↦ g_it, so that each token may have its own advantage. Source: GSPO, arXiv 2507.18071, eq. 14 and 17.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True]]))
    >>> SequenceToken().log_ratio(np.array([[0.25, 0.75]]), layout).tolist()
    [[0.5, 0.5]]
    >>> SequenceToken().pull_back(np.array([[1.0, 2.0]]), layout).tolist()
    [[1.0, 2.0]]
    """

    per_token: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: log s_i at every token of sequence i."""
        return layout.spread(layout.sum_selected(d) / layout.safe_lengths(d))

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself (what the stop-gradients leave)."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)


@dataclass(frozen=True)
class Product:
    """log ρ_i = Σ_t d_it, the sequence's true importance ratio; pull-back g_i ↦ g_i on every token.

    No length normalisation: log ρ spreads like √|y_i|, so it needs a gate or a surrogate that bounds it.
    Source: FSPO, arXiv 2509.09177.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> Product().log_ratio(np.array([[0.25, 0.5], [1.0, 9.0]]), Padded(np.array([[True, True], [True, False]]))).tolist()
    [0.75, 1.0]
    """

    per_token: ClassVar[bool] = False

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """[N] log ρ_i, 0 for an empty sequence."""
        return layout.sum_selected(d)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """[N] the sum of d over each sequence."""
        return layout.sum(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g_i."""
        return layout.spread(g)


@dataclass(frozen=True)
class ProductToken:
    """log ρ_i at every token, but moving with its own token only: sg[ρ_i] · π(y_it)/sg[π(y_it)].

    Pull-back g_it ↦ g_it. To Product what SequenceToken is to Sequence. Source: VESPO, arXiv 2602.10693, whose weight on
    a token is a function of ρ_i.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> ProductToken().log_ratio(np.array([[0.25, 0.5]]), Padded(np.array([[True, True]]))).tolist()
    [[0.75, 0.75]]
    """

    per_token: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: log ρ_i at every token of sequence i."""
        return layout.spread(layout.sum_selected(d))

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself (what the stop-gradients leave)."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)


@dataclass(frozen=True)
class Turn:
    """log s_ik = (1/|y_ik|) Σ_{t in turn k} d_it, one ratio per turn of a dialogue; pull-back g_ik ↦ g_ik/|y_ik|.

    Units are [N, K]: each turn has its own ratio and is clipped on its own, with its own advantage ([N, K], or [N] for all
    turns of a sequence). With one turn per sequence this is `Sequence`. The turns stand in the layout,
    `Turns(layout, turn_ids, num_turns)`; with another one a TypeError says so. How turns are averaged within a sequence
    is the reduction's word: `SequenceMean()` by their tokens, `TurnMean()` equally.

    Source: the ratio of GSPO, arXiv 2507.18071, eq. 7, taken turn by turn, as the "turn-level importance sampling" of
    ST-PPO (C. Li et al., arXiv 2511.20718) and ratio_type "segment" of ROLL's agentic pipeline.

    >>> import numpy as np
    >>> from gspo_core import Padded, Turns
    >>> dialogue = Turns(Padded(np.ones((1, 3), dtype=bool)), np.array([[0, 0, 1]]), 2)
    >>> Turn().log_ratio(np.array([[0.25, 0.75, -1.0]]), dialogue).tolist()
    [[0.5, -1.0]]
    """

    per_token: ClassVar[bool] = False
    per_turn: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """[N, K] log s_ik, 0 for an empty turn."""
        turns = turns_of(layout, self)
        return by_turn(mean_over_tokens(d, turns.each), turns)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """[N, K] the mean of d over each turn."""
        return self.log_ratio(d, layout)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g_ik/|y_ik|."""
        each = turns_of(layout, self).each
        return each.spread(flat(g, layout) / each.safe_lengths(g))


@dataclass(frozen=True)
class TurnToken:
    """log s_ik at every token of turn k, but moving with its own token only: sg[s_ik] · π(y_it)/sg[π(y_it)].

    Pull-back g_it ↦ g_it. To `Turn` what `SequenceToken` is to `Sequence`: each token may have its own advantage, and if
    they are equal within each turn, value and weights are those of Turn() under the same reduction, whichever it is. One
    number per turn becomes one per token with `turn_advantages`. Needs a layout with turns, as Turn does.

    Source: GSPO-token, arXiv 2507.18071, eq. 14 and 17, turn by turn.

    >>> import numpy as np
    >>> from gspo_core import Padded, Turns
    >>> dialogue = Turns(Padded(np.ones((1, 3), dtype=bool)), np.array([[0, 0, 1]]), 2)
    >>> TurnToken().log_ratio(np.array([[0.25, 0.75, -1.0]]), dialogue).tolist()
    [[0.5, 0.5, -1.0]]
    """

    per_token: ClassVar[bool] = True
    per_turn: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: the log ratio of the token's turn."""
        each = turns_of(layout, self).each
        return each.spread(mean_over_tokens(d, each))

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself (what the stop-gradients leave)."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)
