"""Bounds of the clip and of gates: exactly on a bound, and one step of rounding beyond it."""

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
    "a unit has a gradient on a bound, and none one step of rounding beyond it",
    source="docs/theory.md, B6 and B7: bounds are included and compared as log ratios, for surrogates and gates alike",
    otherwise="the bound is not exact: compared with a tolerance, in another precision, or as a ratio that has lost digits",
    needs={Claim.EDGES, Claim.BOUNDS, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.integers(0, 5), st.sampled_from(DTYPES)),
    anchors=lambda setting: [(k, dtype) for k in range(len(setting.limits)) for dtype in DTYPES],
    effort=0.1,
)
def one_step(subject: Subject, setting: Setting, case: tuple[int, Any]) -> bool:
    """A response of one token whose log ratio is the bound in that precision, then the next floating-point number outwards."""
    which, dtype = case
    if not setting.limits:
        return False
    bound, sign = setting.limits[which % len(setting.limits)]
    on = dtype(bound)
    outwards = dtype(np.copysign(np.inf, bound))
    for log_ratio, has_gradient in ((on, True), (np.nextafter(on, -outwards), True), (np.nextafter(on, outwards), False)):
        batch = Batch.of([[float(log_ratio)]], [sign])
        found = subject(batch, dtype=dtype)
        what = f"whether a unit with log ratio {float(log_ratio)!r} (bound {bound!r}) has a gradient in {dtype.__name__}"
        demand(float(found.weight[0, 0] != 0), float(has_gradient), 0.0, what, batch)
    return True


CLIP_BOUNDS: list[Law] = [one_step]
