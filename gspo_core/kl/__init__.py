"""KL to a reference policy: estimators as a value and its slope, and a penalty that is a term of its own.

With x = log π_ref − log π (per token, or summed over a sequence) and the policy ratio w = π/π_old:

                 value              ∂value/∂log π    on average over samples of π, the gradient is that of
    K1           −x                 1                nothing (0)
    K2           x²/2               −x               KL(π‖π_ref) of the next token
    SequenceK2   the same for whole responses        KL(π‖π_ref) of the response
    KAbs         |x|                −sign(x)         Σ_v |π − π_ref| of the next token
    K3           eˣ − 1 − x         1 − eˣ           KL(π_ref‖π) of the next token
    TokenKL      w (eˣ − 1 − x)     −w x             KL(π‖π_ref) of the next token, also for samples of π_old
    SequenceKL   the same for whole responses        KL(π‖π_ref) of the response, also for samples of π_old

`Capped(K3(), 10.0)` bounds x of any of them; where it acts the slope is 0.

The term knows neither the objective nor its ratio: clipping, advantages and the level of the importance ratio do not touch
it. GSPO has none; to have one, minimise loss.value + β · kl.value, whose weight is loss.logp_grad + β · kl.logp_grad.
"""

from .capped import Capped
from .estimators import K1, K2, K3, Divergence, KAbs, KLEstimator, SequenceK2, SequenceKL, TokenKL
from .penalty import KLPenalty, KLTerm, kl_penalty

__all__ = [
    "K1",
    "K2",
    "K3",
    "Capped",
    "Divergence",
    "KAbs",
    "KLEstimator",
    "KLPenalty",
    "KLTerm",
    "SequenceK2",
    "SequenceKL",
    "TokenKL",
    "kl_penalty",
]
