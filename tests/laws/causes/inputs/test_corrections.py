"""A weight per token on one ratio per response is told from other corrections, with its cap, and can be declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core import laws
from gspo_core.laws.mutants.mutant import LIKE, WITH_SAMPLER, exp, gain, log_s, mean, ratios, token_mean


def of_tokens(cap: float) -> Any:
    """GSPO with min(π_old/π_sampler, cap) at each token."""

    def loss(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> Any:
        weight = np.minimum(exp(ratios(old, sampler_logp, mask)), cap)
        return mean(token_mean(gain(log_s(logp, old, mask), a)[:, None] * weight, mask), mask)

    return loss


CHOSEN = [law for law in laws.LAWS if law.chapter == "sampler"]


@pytest.mark.parametrize("cap", [1.5, 2.0, 5.0, float("inf")])
def test_the_mean_of_token_weights_has_its_cap_in_the_first_sentence(cap: float) -> None:
    (cause,) = laws.check(of_tokens(cap), LIKE, names=WITH_SAMPLER, laws=CHOSEN, examples=5).causes
    held = f", each held at {cap:g} at most" if np.isfinite(cap) else ""
    assert f"the arithmetic mean of its token ratios{held}, not their product" in cause.sentence
    assert "without={Claim.WHOLE_WEIGHT}" in cause.fix


def test_it_is_judged_by_all_other_laws_where_that_is_declared() -> None:
    """Declared, it keeps the laws about the sampler; a weight that is turned over still breaks them."""
    without = {laws.Claim.WHOLE_WEIGHT}
    report = laws.check(of_tokens(2.0), LIKE, names=WITH_SAMPLER, without=without, laws=CHOSEN, examples=10)
    assert report.ok, str(report)
    assert len(report.kept) == len(CHOSEN) - 1

    def turned(logp: Any, old: Any, a: Any, mask: Any, sampler_logp: Any) -> Any:
        return of_tokens(2.0)(logp, sampler_logp, a, mask, old)

    assert not laws.check(turned, LIKE, names=WITH_SAMPLER, without=without, laws=CHOSEN, examples=10).ok
