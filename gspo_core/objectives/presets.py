"""Published objectives, with the numbers their papers give. A variant is one line; docs/family.md compares them.

A preset is the loss alone: how rewards become advantages, and which responses are sampled or dropped, is said beside it.
"""

from __future__ import annotations

from .clipped_surrogates import Clip, GateOnly, Unclipped
from .gates import Band, OffPolicyMask, TokenClip
from .loss import Objective
from .ratios import Product, ProductToken, Sequence, SequenceToken, Token
from .reductions import FixedLength, SequenceMean, TokenMean
from .regions import TotalVariation
from .soft_surrogates import GammaWeight, ReciprocalWeight, SoftGate, TruncatedWeight

GSPO = Objective(Sequence(), Clip(3e-4, 4e-4), SequenceMean())
"""J = (1/G) Σ_i min(s_i A_i, clip(s_i) A_i). Zheng et al., arXiv 2507.18071, eq. 5; clip range of section 5.1.

>>> import numpy as np
>>> GSPO.surrogate(np, np.log(np.array([1.0001, 1.001])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.0001, 0.0]
"""

GSPO_TOKEN = Objective(SequenceToken(), Clip(3e-4, 4e-4), SequenceMean())
"""J = (1/G) Σ_i (1/|y_i|) Σ_t min(s_it A_it, clip(s_it) A_it). Zheng et al., arXiv 2507.18071, eq. 13.

>>> import numpy as np
>>> GSPO_TOKEN.surrogate(np, np.log(np.array([0.999, 0.999])), np.array([1.0, -1.0])).slope.round(4).tolist()
[0.999, 0.0]
"""

GATE_ONLY_GSPO = Objective(Sequence(), GateOnly(3e-4, 4e-4), SequenceMean())
"""GSPO's gate with the weight 1 in place of s_i: an ablation, not from a paper.

>>> import numpy as np
>>> GATE_ONLY_GSPO.surrogate(np, np.log(np.array([0.9, 1.001])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.0, 0.0]
"""

LUSPO = Objective(Sequence(), Clip(2e-3, 2.5e-3), FixedLength(1))
"""J = (1/G) Σ_i |y_i| min(s_i A_i, clip(s_i) A_i): GSPO without the 1/|y_i| in its gradient. arXiv 2602.05261.

>>> LUSPO.reduction, LUSPO.surrogate
(FixedLength(length=1), Clip(low=0.002, high=0.0025))
"""

GMPO = Objective(Sequence(), Unclipped(), SequenceMean(), TokenClip(0.4, 0.4))
"""J = (1/G) Σ_i g_i A_i, g_i the geometric mean of ratios clipped token by token to (e^-0.4, e^0.4). arXiv 2507.20673.

>>> import numpy as np
>>> from gspo_core import Padded, policy_loss
>>> zeros = np.zeros((1, 2))
>>> loss = policy_loss(GMPO, np.array([[0.4, 9.0]]), zeros, np.ones(1), Padded(zeros == 0))
>>> loss.logp_grad.round(4).tolist()  # −(e^0.4)/2 where open; the second token is on its bound
[[-0.7459, 0.0]]
"""

FSPO = Objective(Product(), Unclipped(), SequenceMean(), Band(0.03, 0.5))
"""J = (1/G) Σ_i min(ρ_i A_i, clip(ρ_i, e^−b_i, e^b_i) A_i), b_i = 0.03 √|y_i|. arXiv 2509.09177, which tunes its constant:
0.03 is this package's choice, the width at which the band equals GSPO's at about 8,000 tokens.

>>> import numpy as np
>>> from gspo_core import Padded, policy_loss
>>> zeros = np.zeros((1, 4))
>>> [policy_loss(FSPO, zeros + x, zeros, np.ones(1), Padded(zeros == 0)).clipped.tolist() for x in (0.01, 0.02)]
[[False], [True]]
"""

VESPO = Objective(ProductToken(), GammaWeight(2.0, 3.0, 3.0, 2.0), TokenMean())
"""Weight φ(ρ_i) A_i / Σ|y|, φ(ρ) = ρ^k e^(λ(1−ρ)), no length normalisation in ρ. arXiv 2602.10693.

>>> import numpy as np
>>> VESPO.surrogate(np, np.log(np.array([1.0, 2.0])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.0, 0.1991]
"""

GRPO = Objective(Token(), Clip(0.2, 0.2), SequenceMean())
"""J = (1/G) Σ_i (1/|y_i|) Σ_t min(w_it A_it, clip(w_it) A_it), without KL. Shao et al., arXiv 2402.03300, eq. 3; ε 0.2.

>>> import numpy as np
>>> GRPO.surrogate(np, np.log(np.array([1.1, 1.3])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.1, 0.0]
"""

DR_GRPO = Objective(Token(), Clip(0.2, 0.2), FixedLength(3000))
"""GRPO over a constant length, with advantages r − mean (`Centred`). arXiv 2503.20783; 3000 is its generation budget: put
your own with replace(DR_GRPO, reduction=FixedLength(longest response)).

>>> import numpy as np
>>> from gspo_core import Padded
>>> int(DR_GRPO.count(Padded(np.ones((2, 5), dtype=bool))))  # what the sum is divided by, whatever the lengths
6000
"""

DAPO = Objective(Token(), Clip(0.2, 0.28), TokenMean())
"""GRPO with a higher upper bound and a mean over all tokens of the batch. Yu et al., arXiv 2503.14476, eq. 8; the loss only:
dynamic sampling and overlong shaping happen to the batch and to the reward.

>>> import numpy as np
>>> DAPO.surrogate(np, np.log(np.array([1.25, 1.3])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.25, 0.0]
"""

BNPO = Objective(Token(), Clip(0.2, 0.2), TokenMean())
"""GRPO with a mean over tokens of the local batch: TRL's loss_type "bnpo". The denominator is not added up over
micro-batches. The Beta-normalised advantages of arXiv 2506.02864 are a matter of the reward, not of this loss.

>>> import numpy as np
>>> BNPO.surrogate(np, np.log(np.array([1.1, 1.25])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.1, 0.0]
"""

CISPO = Objective(Token(), TruncatedWeight(5.0), TokenMean())
"""Weight sg[min(w_it, 5)] A_it / Σ|y|: weights are clipped, tokens are not. MiniMax-M1, arXiv 2506.13585, eq. 4-5; cap of
ScaleRL, arXiv 2510.13786.

>>> import numpy as np
>>> CISPO.surrogate(np, np.log(np.array([2.0, 9.0])), np.array([1.0, 1.0])).slope.round(4).tolist()
[2.0, 5.0]
"""

SAPO = Objective(Token(), SoftGate(1.0, 1.05), SequenceMean())
"""J = (1/G) Σ_i (1/|y_i|) Σ_t (4/τ) σ(τ(w_it − 1)) A_it. Gao et al., arXiv 2511.20347.

>>> import numpy as np
>>> SAPO.surrogate(np, np.log(np.array([1.0, 3.0])), np.array([1.0, 1.0])).slope.round(4).tolist()
[1.0, 1.2599]
"""

ASPO = Objective(Token(), ReciprocalWeight(0.2, 0.2, 3.0), TokenMean())
"""Weight min(1/w_it, 3) A_it for A > 0 and min(w_it, 3) A_it for A < 0, with GRPO's gate. Wang et al., arXiv 2510.06062;
one band for all tokens: the authors' code widens it to 0.4 for the fifth of highest entropy.

>>> import numpy as np
>>> ASPO.surrogate(np, np.log(np.array([0.5, 0.1])), np.array([1.0, 1.0])).slope.round(4).tolist()
[2.0, 3.0]
"""

DEEPSEEK_V3_2 = Objective(Token(), Clip(0.2, 0.2), SequenceMean(), OffPolicyMask(0.5))
"""GRPO without the bad responses whose mean log π_old/π exceeds 0.5. arXiv 2512.02556, eq. 9, which gives no number; 0.5 is
the value that TRL suggests.

>>> import numpy as np
>>> from gspo_core import Padded
>>> layout = Padded(np.array([[True], [True]]))
>>> DEEPSEEK_V3_2.gate(np.array([[-0.4], [-0.6]]), -np.ones(2), layout, per_token=False).advantage.tolist()
[-1.0, 0.0]
"""

DPPO = Objective(Token(), TruncatedWeight(20.0), TokenMean(), TotalVariation(0.15, 0.15))
"""Weight sg[min(w_it, 20)] A_it / Σ|y|, none for a token whose probability has moved by more than 0.15 the way its advantage
pushes. Qi et al., arXiv 2602.04879; verl "dppo_tv", its example's 0.15, its default cap. With `BinaryKL(0.05, 0.05)` as the
gate it is "dppo_kl". The region is around the policy of `old_logp`; the authors take the sampler's.

>>> import numpy as np
>>> from gspo_core import Padded, policy_loss
>>> new, old = np.log(np.array([[0.003, 0.75]])), np.log(np.array([[0.001, 0.5]]))
>>> policy_loss(DPPO, new, old, np.ones(1), Padded(np.array([[True, True]]))).logp_grad.round(4).tolist()
[[-1.5, 0.0]]
"""

IPO = Objective(Token(), Unclipped(), TokenMean(), TotalVariation(0.1, 0.1, either_side=True))
"""Weight w_it A_it / Σ|y|, none for a token whose probability has moved by more than 0.1 either way: prime-rl's default loss,
whose pull to the sampler's policy, 2τ K2, is a term beside it.

>>> import numpy as np
>>> from gspo_core import Padded, policy_loss
>>> new, old = np.log(np.array([[0.45, 0.3]])), np.log(np.array([[0.5, 0.5]]))
>>> policy_loss(IPO, new, old, np.ones(1), Padded(np.array([[True, True]]))).logp_grad.round(4).tolist()
[[-0.45, 0.0]]
"""

PRESETS: dict[str, Objective] = {name: value for name, value in globals().items() if isinstance(value, Objective)}
"""Every preset above by its name, such as PRESETS["DAPO"].

>>> PRESETS["DR_GRPO"] is DR_GRPO, sorted(PRESETS)[:3]
(True, ['ASPO', 'BNPO', 'CISPO'])
"""
