"""The metrics of one rollout: those of gspo_core, merged over its micro-batches and optimizer steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gspo_core import Objective, Padded, PerToken, Pilot, batch_metrics, diagnose, merge, summary
from gspo_core.metrics import Metrics, entropy_metrics, reference_metrics
from gspo_core.objectives import LinearLoss
from gspo_core.types import Array
from integration.records.findings import finding_rows
from integration.shared.disagreement import Flips, Mismatch

if TYPE_CHECKING:
    from gspo_torch import Routes


class Lists(NamedTuple):
    """What a process adds to a rollup beside its metrics."""

    responses: Pilot
    norms: list[float]
    kl: list[float | None]
    skipped: int
    mismatch: Mismatch
    old_flips: Flips
    flips: list[Flips]


class Rollup:
    """Collects the micro-batches and optimizer steps of one rollout. Arrays of PyTorch or NumPy, all of one kind."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._per_token = objective.ratio.per_token
        self._whole: list[Metrics] = []
        self._steps: list[Metrics | None] = []
        self._fresh: list[Metrics] = []
        self._measured: list[tuple[Array, Array, Array, Padded]] = []
        self._responses = Pilot([], [], [])
        self._norms: list[float] = []
        self._fresh_kl: list[float] = []
        self._kl: list[float | None] = []
        self._skipped = 0
        self._mismatch = Mismatch(objective)
        self._old_flips, self._fresh_flips = Flips(), Flips()
        self._flips: list[Flips] = []

    def add(self, metrics: Metrics) -> None:
        """Metrics of the rollout that belong to no optimizer step: of its groups, of the sampling engine."""
        self._whole.append(metrics)

    def add_flips(self, routes: Routes, own: Routes, *, updating: bool) -> None:
        """A micro-batch: the routes, and what the router itself chooses in the pass for old log-probs, or in an update."""
        (self._fresh_flips if updating else self._old_flips).add(routes, own)

    @np.errstate(invalid="ignore")  # ∞ − ∞ is what the metrics of a skipped step may hold
    def add_loss(
        self,
        loss: LinearLoss,
        old_logp: Array,
        advantage: Array,
        layout: Padded,
        *,
        weighted: Array | PerToken | None = None,
        sampler_logp: Array | None = None,
        ref_logp: Array | None = None,
    ) -> None:
        """A micro-batch.

        Args:
            loss: with its log-probs and entropies.
            old_logp, layout: arguments of the loss.
            advantage: [N].
            weighted: what the loss was given for it, if a sampler correction was applied.
            sampler_logp: token array, if an engine reported them.
            ref_logp: token array, with --kl.
        """
        given = advantage if weighted is None else weighted
        self._fresh.append(batch_metrics(self._objective, loss, loss.logp, old_logp, given, layout))
        self._whole.append(entropy_metrics(loss.entropy, layout))
        if ref_logp is not None:
            self._whole.append(reference_metrics(loss.logp, ref_logp, layout))
        self._measured.append((loss.logp, old_logp, advantage, layout))
        self._fresh_kl += [] if loss.kl is None else [float(loss.kl)]
        if sampler_logp is not None:
            self._mismatch.add(loss.logp, old_logp, sampler_logp, advantage, layout)

    def is_finite(self) -> bool:
        """Whether all log ratios since the last step are finite: a gradient can be, where the ratio is 0 or clipped."""
        ratios = ((logp - old_logp)[layout.valid] for logp, old_logp, _, layout in self._measured)
        return all(bool((abs(ratio) < math.inf).all()) for ratio in ratios)

    def add_step(self, grad_norm: float, left_out: Metrics | None = None, *, skipped: bool) -> None:
        """The optimizer step on the micro-batches since the last one, with the metrics of the responses that it left out."""
        own = [*self._fresh, *([] if left_out is None else [left_out])]
        self._steps.append(merge(*own) if own else None)  # a process of several may have had nothing
        for logp, old_logp, advantage, layout in [] if skipped else self._measured:
            with_advantage = Padded(layout.valid & (advantage != 0)[:, None])
            self._responses += Pilot.measure(logp, old_logp, advantage, with_advantage)
        self._kl.append(sum(self._fresh_kl) if self._fresh_kl else None)
        self._fresh, self._measured, self._fresh_kl = [], [], []
        self._flips.append(self._fresh_flips)
        self._fresh_flips = Flips()
        self._norms.append(grad_norm)
        self._skipped += skipped

    def metrics(self) -> list[Metrics | None]:
        """What belongs to no optimizer step, merged, and each step; None where a process had nothing of it."""
        return [merge(*self._whole) if self._whole else None, *self._steps]

    def lists(self) -> Lists:
        """All the rest, of one process."""
        counters = self._norms, self._kl, self._skipped
        return Lists(self._responses, *counters, self._mismatch, self._old_flips, self._flips)

    def merged(self, metrics: list[Metrics | None], parts: list[Lists]) -> Rollup:
        """The rollup of a rollout, of which each process ran some responses: its `metrics` merged, and everybody's lists."""
        made, first = Rollup(self._objective), parts[0]
        made._norms, made._skipped = first.norms, first.skipped
        made._whole = [whole for whole in metrics[:1] if whole is not None]
        made._steps = metrics[1:]
        for kl in zip(*(part.kl for part in parts), strict=True):
            own = [value for value in kl if value is not None]
            made._kl.append(sum(own) if own else None)
        for flips in zip(*(part.flips for part in parts), strict=True):
            made._flips.append(sum(flips, Flips()))
        made._old_flips = sum((part.old_flips for part in parts), Flips())
        for part in parts:
            made._responses += part.responses
            made._mismatch += part.mismatch
        return made

    def pilot(self, lengths: Array, advantages: Array) -> Pilot:
        """log s of the rollout's responses, [N] lengths and advantages of all. Without an advantage it counts as 0."""
        rest = lengths[advantages == 0].tolist()
        return self._responses + Pilot([0.0] * len(rest), rest, [0.0] * len(rest))

    @np.errstate(invalid="ignore")
    def row(self) -> dict[str, Any]:
        """The rollout as plain numbers: `gspo_core.summary` explains those that are not named here.

        clip_fraction, clip_low, clip_high: shares of the objective's own units, of all responses for gspo, else of all
            tokens. response_length, no_advantage: summary's length_mean and zero_advantage.
        log_s (nats), lengths (tokens), signs (of the advantage): lists over the responses that have an advantage and
            whose optimizer step was not skipped; max_abs_log_s of them.
        grad_norm: mean over the optimizer steps before gradients are cut; by_mini_batch: the clip fraction and the root
            mean square of log s of each; skipped_steps. findings: of `gspo_core.diagnose`.
        kl: with --kl, the estimate that is penalised, before its factor, as a mean over the optimizer steps; nats.
        mismatch_…: of `gspo_core.mismatch_report`, where an engine sampled. flips_engine: [layers] share of the sampler's
            slots in which the trainer's router chooses another expert; flips_update: [mini-batches, layers] the same of the
            routes before the first update, or with replay, of the routes that are replayed.
        """
        steps = [step for step in self._steps if step is not None]
        metrics = merge(*self._whole, *steps)
        numbers, responses = summary(metrics), self._responses
        updates = [shares for flips in self._flips if (shares := flips.shares()) is not None]
        flips = {"flips_engine": self._old_flips.shares(), "flips_update": updates}
        measured = [value for value in self._kl if value is not None]
        finite, kl = ([x for x in values if math.isfinite(x)] for values in (self._norms, measured))
        return {
            **{name: value for name, value in numbers.items() if name not in {"length_mean", "zero_advantage"}},
            "response_length": numbers["length_mean"],
            "no_advantage": numbers["zero_advantage"],
            **{name: self._clipped(numbers, name) for name in ("clip_fraction", "clip_low", "clip_high")},
            "max_abs_log_s": float(np.abs(responses.log_s).max(initial=0.0)),
            "grad_norm": sum(finite) / len(finite) if finite else None,
            **({"kl": sum(kl) / len(kl) if kl else None} if measured else {}),
            "skipped_steps": self._skipped,
            "by_mini_batch": [self._step_row(summary(step)) for step in steps],
            "log_s": responses.log_s.round(7).tolist(),
            "lengths": responses.lengths.astype(int).tolist(),
            "signs": np.sign(responses.advantage).astype(int).tolist(),
            "findings": finding_rows(diagnose(metrics, self._objective)),
            **self._mismatch.row(),
            **{name: shares for name, shares in flips.items() if shares},
        }

    def _step_row(self, numbers: dict[str, float]) -> dict[str, float]:
        return {"clip_fraction": self._clipped(numbers, "clip_fraction"), "log_s_rms": numbers.get("log_s_rms", 0.0)}

    def _clipped(self, numbers: dict[str, float], name: str) -> float:
        return numbers[name.replace("fraction", "active") + ("_tokens" if self._per_token else "")]
