"""Group Sequence Policy Optimization, stated once: an estimator is a value and a weight.

A policy-gradient loss touches a model only through the log-probabilities of the sampled tokens, so

    policy_loss(objective, logp, old_logp, advantage, layout) -> Loss(value, logp_grad, ...)

returns the loss and ∂loss/∂logp in closed form, on any array-API library, and whoever owns the model finishes the
chain rule: PyTorch's autograd (`gspo_torch`), JAX's, a fused LM head, or nobody at all.

An objective is three choices:

    ratio       Token()          w_it = π(y_it)/π_old(y_it)
                Sequence()       s_i  = (π(y_i)/π_old(y_i))^(1/|y_i|)
                SequenceToken()  s_it = sg[s_i] · π(y_it)/sg[π(y_it)]
    surrogate   Clip(low, high)  min(s A, clip(s, 1 − low, 1 + high) A)
    reduction   SequenceMean()   ·   TokenMean()

    GSPO       = Objective(Sequence(),      Clip(3e-4, 4e-4), SequenceMean())     arXiv 2507.18071
    GSPO_TOKEN = Objective(SequenceToken(), Clip(3e-4, 4e-4), SequenceMean())
    GRPO       = Objective(Token(),         Clip(0.2, 0.2),   SequenceMean())     arXiv 2402.03300
"""

from .advantages import Centred, LeaveOneOut, ZScore, group_advantages
from .layouts import Padded
from .objective import Objective, policy_loss
from .presets import GRPO, GSPO, GSPO_TOKEN
from .ratios import Sequence, SequenceToken, Token
from .reductions import SequenceMean, TokenMean
from .surrogates import Clip
from .types import Gain, Layout, Loss, Ratio, Reduction, Surrogate

__all__ = [
    "GRPO",
    "GSPO",
    "GSPO_TOKEN",
    "Centred",
    "Clip",
    "Gain",
    "Layout",
    "LeaveOneOut",
    "Loss",
    "Objective",
    "Padded",
    "Ratio",
    "Reduction",
    "Sequence",
    "SequenceMean",
    "SequenceToken",
    "Surrogate",
    "Token",
    "TokenMean",
    "ZScore",
    "group_advantages",
    "policy_loss",
]
