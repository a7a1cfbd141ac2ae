"""Logits for a loss that is called with them in place of log-probs."""

from __future__ import annotations

from typing import Any

from gspo_core._lib.array import namespace


def with_logits(inputs: dict[str, Any]) -> dict[str, Any]:
    """Logits for log-probs: two tokens, whose log-softmax is (log π − 1, log(1 − π/e)); old log-probs move with them."""
    xp = namespace(logp=inputs["logp"])
    moved: dict[str, Any] = {k: inputs[k] - 1.0 for k in ("logp", "old_logp", "ref_logp", "sampler_logp") if k in inputs}
    logp = moved.pop("logp")
    low = xp.where(logp < -1e-3, logp, -1e-3 * xp.ones_like(logp))
    logits = xp.stack([logp, xp.log1p(-xp.exp(low))], axis=-1)
    return {**{k: x for k, x in inputs.items() if k != "logp"}, **moved, "logits": logits}
