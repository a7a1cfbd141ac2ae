"""What an objective's gate makes of the tokens' log ratios and the units' advantages, before the ratio is formed."""

from __future__ import annotations

from typing import Any

from gspo_core._lib.array import nan_without_warning
from gspo_core._lib.units import flat, is_per_turn, sum_by_turn, turns_of
from gspo_core.types import Array, Gate, Gated, Layout, LogProbGate, Ratio


def token_log_ratio(logp: Array, old_logp: Array, layout: Layout) -> Array:
    """Token array d = logp − old_logp, 0 in masked slots whatever stands there."""
    if nan_without_warning(layout.xp):
        return layout.select(logp - old_logp)
    return layout.select(logp) - layout.select(old_logp)


def gated(
    gate: Gate | LogProbGate | None, ratio: Ratio, d: Array, advantage: Array, layout: Layout, logp: Array, old_logp: Array
) -> Gated:
    """Log ratios and advantages after a gate; unchanged without one. `advantage` is per unit.

    Where ratios are turns', the gate sees turns as sequences. A gate that sees log-probs is given them as well, 0 in masked
    slots; on policy old_logp is logp.
    """
    if gate is None:
        return Gated(d, advantage, layout.valid)
    more = {}
    if getattr(gate, "sees_log_probs", False):
        more = {"logp": layout.select(logp), "old_logp": layout.select(old_logp)}
    seen = _through(gate, ratio, d, advantage, layout, more)
    return seen._replace(d=layout.select(seen.d))


def _through(gate: Any, ratio: Ratio, d: Array, advantage: Array, layout: Layout, more: dict[str, Array]) -> Gated:
    seen: Gated
    if not is_per_turn(ratio):
        seen = gate(d, advantage, layout, ratio.per_token, **more)
        return seen
    turns = turns_of(layout, ratio)
    if ratio.per_token:
        seen = gate(d, advantage, turns.each, True, **more)
        return seen
    seen = gate(d, flat(advantage, layout), turns.each, False, **more)
    return seen._replace(advantage=layout.xp.reshape(seen.advantage, advantage.shape))


def passed(seen: Gated, weight: Array, layout: Layout) -> Array:
    """Token array: the gradient with respect to the true log ratios, from that with respect to those which the gate let see."""
    xp = layout.xp
    if xp.isdtype(seen.open.dtype, "bool"):
        return xp.where(seen.open, weight, 0.0)
    return xp.where(_is_open(seen, layout), seen.open * weight, 0.0)


def _is_open(seen: Gated, layout: Layout) -> Array:
    return seen.open if layout.xp.isdtype(seen.open.dtype, "bool") else seen.open != 0


def silenced(ratio: Ratio, advantage: Array, seen: Gated, layout: Layout) -> Array:
    """Units, boolean: advantage not zero, but the gate took it away or closed all of the unit's tokens."""
    xp = layout.xp
    opened = _is_open(seen, layout)
    if ratio.per_token:
        shut = ~opened
    else:
        moving = xp.astype(opened, seen.d.dtype)
        shut = (sum_by_turn(moving, turns_of(layout, ratio)) if is_per_turn(ratio) else layout.sum(moving)) == 0
    return (advantage != 0) & ((seen.advantage == 0) | shut)
