"""Clip ranges from measured log s: --clip-fraction takes one from a pilot; the report shows what a range does by length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gspo_core import Clip, Objective, Pilot, clip_range_for
from gspo_core.clip_range import LengthBin, clip_fraction_for, clip_table
from integration.options.errors import TrainingFailure
from integration.records.json_lines import Row


def ranges_by_length(rows: list[Row], clip: Any) -> tuple[LengthBin, ...]:
    """Effect of `clip` on a run's responses in each bin of lengths (powers of two), and the range that would suit each bin.

    Args:
        rows: lines of metrics with `log_s`, `lengths` and `signs`; others are passed over.
        clip: the surrogate. There are no bins unless it is a `Clip` that clips some of these responses on either side of 1.

    >>> row = {"log_s": [0.02, -0.04, 0.03, -0.02], "lengths": [2, 3, 35, 40], "signs": [1, -1, 1, -1]}
    >>> [(b.shortest, b.longest, b.share) for b in ranges_by_length([row], Clip(0.01, 0.025))]
    [(2, 3, 0.5), (32, 63, 0.5)]
    """
    known = [row for row in rows if "lengths" in row]
    if not known or not isinstance(clip, Clip) or min(clip.low, clip.high) == 0:
        return ()
    law = Pilot(*([x for row in known for x in row[name]] for name in ("log_s", "lengths", "signs")))
    target = clip_fraction_for(clip, law).total if law.lengths.size else 0.0
    if not 0.0 < target < 1.0:
        return ()
    edges = [2**n for n in range(int(law.lengths.max()).bit_length() + 1)]
    return clip_table(target, law, edges, high_over_low=clip.high / clip.low)


@dataclass
class ClipAdvice:
    """Gathers the pilot's rollouts, then chooses the range once; from there on it predicts."""

    target: float
    """Share of all responses that the range is to clip."""
    pilot_rollouts: int
    """Rollouts with the default range."""
    rollouts: list[Pilot] = field(default_factory=list)
    """The pilot's, so far."""
    clip: Clip | None = None
    """The advised range; None during the pilot."""

    def after_rollout(self, measured: Pilot) -> dict[str, Any]:
        """The advised range and the clip fraction that it predicts, for the rollout's line of metrics; both None in the pilot.

        The prediction takes from `measured` only what is known before the first update: how many responses there are of
        either sign of the advantage, and how long they are.
        """
        if self.clip is not None:
            pilot = sum(self.rollouts[1:], self.rollouts[0])
            predicted = clip_fraction_for(self.clip, pilot, measured.lengths, measured.advantage)
            return {"clip_range": [self.clip.low, self.clip.high], "predicted_clip_fraction": predicted.total}
        self.rollouts.append(measured)
        if len(self.rollouts) == self.pilot_rollouts:
            try:
                self.clip = clip_range_for(self.target, sum(self.rollouts[1:], self.rollouts[0]))
            except ValueError as error:
                raise TrainingFailure(f"--clip-fraction: after the pilot's {self.pilot_rollouts} rollouts: {error}") from error
        return {"clip_range": None, "predicted_clip_fraction": None}

    def state(self) -> dict[str, Any]:
        """For the checkpoint: plain numbers."""
        pilot = [[rollout.log_s.tolist(), rollout.lengths.tolist(), rollout.advantage.tolist()] for rollout in self.rollouts]
        return {"pilot": pilot, "clip": None if self.clip is None else [self.clip.low, self.clip.high]}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.rollouts = [Pilot(*rollout) for rollout in state["pilot"]]
        self.clip = None if state["clip"] is None else Clip(*state["clip"])


class Advised:
    """A trainer whose clip range may come from a pilot."""

    objective: Objective
    advice: ClipAdvice | None

    def advised(self, rollout: Pilot) -> dict[str, Any]:
        """Let the pilot see a rollout, and go on with its range when it has one. Returns what belongs into the metrics."""
        if self.advice is None:
            return {}
        row = self.advice.after_rollout(rollout)
        self.take_advice()
        return row

    def take_advice(self) -> None:
        """Go on with the pilot's range, if it has one."""
        if self.advice is not None and self.advice.clip is not None and self.advice.clip != self.objective.surrogate:
            self.objective = self.objective.with_clip(self.advice.clip.low, self.advice.clip.high)
            print(f"\nclip range from the pilot: {self.advice.clip.low:.4g}, {self.advice.clip.high:.4g}", flush=True)
