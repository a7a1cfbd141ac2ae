"""Edges: on a bound, and one step of rounding beyond it (theory B6, B7)."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject

DTYPES: list[Any] = [np.float64, np.float32]


@law(
    "on a bound a unit is live, one step of rounding beyond it is silent",
    source="theory B6, B7: u is defined with ≤ and ≥, in log space, for surrogates and gates alike",
    otherwise="the bound is blurred: compared with a tolerance, in another precision, or as a ratio that has lost digits",
    needs={Claim.EDGES, Claim.BOUNDS, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.integers(0, 5), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(k, dtype) for k in range(len(setting.limits)) for dtype in DTYPES],
    effort=0.1,
)
def one_step(subject: Subject, setting: Setting, case: tuple[int, Any]) -> bool:
    """A response of one token, its log ratio the bound as the precision has it, then the next number outwards."""
    which, dtype = case
    if not setting.limits:
        return False
    bound, sign = setting.limits[which % len(setting.limits)]
    on = dtype(bound)
    outwards = dtype(np.copysign(np.inf, bound))
    for log_ratio, is_live in ((on, True), (np.nextafter(on, -outwards), True), (np.nextafter(on, outwards), False)):
        batch = Batch.of([[float(log_ratio)]], [sign])
        found = subject(batch, dtype=dtype)
        what = f"whether a unit at log ratio {float(log_ratio)!r} is live in {dtype.__name__}, bound {bound!r},"
        demand(float(found.weight[0, 0] != 0), float(is_live), 0.0, what, batch)
    return True


EDGES: list[Law] = [one_step]
