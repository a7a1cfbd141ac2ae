"""Numbers that cannot be right."""

from __future__ import annotations

import math

from .findings import Finding, FindingKind, Numbers


def not_finite(numbers: Numbers) -> list[Finding]:
    """What is NaN or infinite: every comparison with it is False, so that nothing else would be said about it."""
    names = ("loss", "gradient", "log_s_rms", "sampler_log_s_rms", "sampler_mass_gap", "sampler_mass_gap_error")
    broken = [name for name in names if not math.isfinite(numbers.get(name, 0.0))]
    if not broken:
        return []
    listed = ", ".join(f"{name} = {{{name}}}" for name in broken)
    sentence = (
        f"Not finite: {listed}. One NaN or infinite log-prob or advantage is enough. What depends on these numbers cannot be "
        "judged, and nothing said about it does not mean that all is well: find the response, and leave it out."
    )
    return [Finding.of(FindingKind.NOT_FINITE, numbers, sentence)]
