"""Published objectives, with the numbers their papers give. A variant is one line."""

from __future__ import annotations

from .objective import Objective
from .ratios import Sequence, SequenceToken, Token
from .reductions import SequenceMean
from .surrogates import Clip

GSPO = Objective(Sequence(), Clip(3e-4, 4e-4), SequenceMean())
"""J = (1/G) Σ_i min(s_i A_i, clip(s_i) A_i). Zheng et al., arXiv 2507.18071, eq. 5; clip range of section 5.1."""

GSPO_TOKEN = Objective(SequenceToken(), Clip(3e-4, 4e-4), SequenceMean())
"""J = (1/G) Σ_i (1/|y_i|) Σ_t min(s_it A_it, clip(s_it) A_it). Zheng et al., arXiv 2507.18071, eq. 13."""

GRPO = Objective(Token(), Clip(0.2, 0.2), SequenceMean())
"""J = (1/G) Σ_i (1/|y_i|) Σ_t min(w_it A_it, clip(w_it) A_it), without KL. Shao et al., arXiv 2402.03300, eq. 3; ε 0.2."""
