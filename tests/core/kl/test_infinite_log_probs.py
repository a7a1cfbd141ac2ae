"""KL estimates where a token has no probability under the policy, the old policy or the reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import Packed, Padded, SequenceMean, kl_penalty
from gspo_core.kl import K1, K2, K3, KAbs, KLEstimator, KLPenalty, SequenceK2, SequenceKL, TokenKL

MASK = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
LAYOUTS = {
    "padded": Padded(MASK),
    "packed": Packed(torch.where(MASK, torch.arange(3)[:, None], -1).reshape(-1), 3),
}
EVERY = [K1(), K2(), K3(), TokenKL(), SequenceKL(), SequenceK2(), KAbs()]
ESTIMATORS = pytest.mark.parametrize("estimator", EVERY, ids=lambda x: type(x).__name__)
INF = math.inf


def penalty(estimator: KLEstimator, logp: Tensor, old: Tensor, ref: Tensor, layout: str = "padded") -> KLPenalty:
    """The penalty of [3, 3] arrays."""
    logp, old, ref = (x.reshape(LAYOUTS[layout].shape) for x in (logp, old, ref))
    olds = {"old_logp": old} if estimator.off_policy else {}
    return kl_penalty(estimator, logp, ref, LAYOUTS[layout], reduction=SequenceMean(), **olds)


def batch(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """(logp, old, ref)."""
    noise = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return list((0.3 * noise - 1.0).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("estimator", "value"), [(K1(), -INF), (K2(), INF), (SequenceK2(), INF), (KAbs(), INF), (K3(), INF)], ids=repr
)
def test_the_plain_estimates_of_a_token_the_policy_excludes_are_infinite(
    estimator: KLEstimator, value: float, dtype: torch.dtype
) -> None:
    logp, old, ref = batch(0, dtype)
    logp[1, 1] = -INF
    assert penalty(estimator, logp, old, ref).value == value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(seed=st.integers(0, 999), reference=st.sampled_from([None, -INF]))
def test_with_the_ratio_of_0_what_is_left_of_them_is_the_references_share(
    dtype: torch.dtype, seed: int, reference: float | None
) -> None:
    """w (eˣ − 1 − x) → π_ref/π_old as w → 0, and w x → 0; also where the reference excludes the token, too."""
    logp, old, ref = batch(seed, dtype)
    logp[1, 1] = -INF
    if reference is not None:
        ref[1, 1] = reference
    for estimator in (TokenKL(), SequenceKL()):
        found = penalty(estimator, logp, old, ref)
        x, d = (torch.where(MASK, a.double() - b.double(), 0.0) for a, b in ((ref, logp), (logp, old)))
        left = torch.where(MASK, ref.double() - old.double(), 0.0)
        if isinstance(estimator, SequenceKL):
            x, d, left = (t.sum(1, keepdim=True) for t in (x, d, left))
        gone = d == -INF
        w = d.exp()
        each = torch.where(gone, left.exp(), w * (torch.where(gone, 0.0, x).expm1() - torch.where(gone, 0.0, x)))
        slope = -w * torch.where(gone, 0.0, x)
        share = (MASK.double() / MASK.sum(1, keepdim=True) if estimator.per_token else torch.ones(3, 1).double()) / 3
        tolerance = 1e-4 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(found.value.double(), (share * each).sum(), rtol=tolerance, atol=tolerance)
        wanted = torch.where(MASK, share * slope, 0.0)
        torch.testing.assert_close(found.logp_grad.double(), wanted, rtol=tolerance, atol=tolerance)


@ESTIMATORS
@given(
    seed=st.integers(0, 999),
    which=st.sampled_from([0, 1, 2]),
    wrong=st.sampled_from([-INF, INF, math.nan, torch.finfo(torch.float64).min]),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_a_token_that_is_not_finite_changes_no_other(
    estimator: KLEstimator, seed: int, which: int, wrong: float, layout: str
) -> None:
    """No other slot of an estimate per token, no other row of one per sequence."""
    arrays = batch(seed)
    before = penalty(estimator, *arrays, layout=layout).logp_grad.reshape(3, 3)
    arrays[which][1, 1] = wrong
    after = penalty(estimator, *arrays, layout=layout).logp_grad.reshape(3, 3)
    others = torch.arange(9).reshape(3, 3) != 4 if estimator.per_token else torch.tensor([True, False, True])
    assert torch.equal(after[others], before[others])
