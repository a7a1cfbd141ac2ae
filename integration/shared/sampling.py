"""What a rollout says about its sampling: whether responses end, and whether the sampler is the trainer's own policy."""

from __future__ import annotations

from typing import Any

ALLOWED_GAP = {False: 2e-3, True: 0.5}
"""Nats that rounding explains, in float32 and in 16 bits: those of the comparison before a run."""


def sampling_row(gap: float | None, ended: float, *, low: bool, new_tokens: int) -> dict[str, Any]:
    """Its part of the line of metrics, with findings as `gspo_core.diagnose` has them.

    sampler_gap: nats by which the sampler's log-probs of a few responses differ from the trainer's, at the worst token; left
    out where they differ on purpose. ended: the share of responses that end by themselves within --max-new-tokens.

    >>> sampling_row(1e-6, 0.5, low=False, new_tokens=16)
    {'sampler_gap': 1e-06, 'ended': 0.5, 'findings': []}
    """
    findings = []
    if gap is not None and not gap <= ALLOWED_GAP[low]:
        findings.append(
            {
                "kind": "SAMPLER_GAP",
                "sentence": f"The sampler's log-probs differ from the trainer's by up to {gap:.2g} nats before any update "
                f"({ALLOWED_GAP[low]:g} allowed), on the same weights: its cache, padding or positions are not right for texts "
                "of these lengths, and responses are drawn from another policy than the one that is trained.",
            }
        )
    if ended == 0.0:
        findings.append(
            {
                "kind": "NOTHING_ENDS",
                "sentence": f"No response ended by itself within --max-new-tokens {new_tokens}: answers are cut off, or the "
                "token that ends them is neither the tokenizer's eos_token nor in eos_token_id of generation_config.json.",
            }
        )
    return {**({} if gap is None else {"sampler_gap": gap}), "ended": ended, "findings": findings}
