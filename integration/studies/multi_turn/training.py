"""One training run on dialogues with the register machine."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gspo_torch import policy_loss
from torch import Tensor

from gspo_core import Pilot
from gspo_core.clip_range import measured_clip_fraction
from gspo_core.planning import Plan
from integration.options.errors import TrainingFailure
from integration.records.clip_advice import ClipAdvice
from integration.studies.multi_turn.arms import Arm
from integration.studies.multi_turn.register_machine import draw_episodes
from integration.studies.multi_turn.rollout import Dialogues, dialogue_logp, draw

PROMPTS, GROUP, MINI_BATCHES = 8, 8, 4
"""Episodes per rollout, dialogues to each, optimizer steps per rollout."""
LR_WARM_UP = 20
"""Optimizer steps over which the learning rate rises: Adam's first steps are the largest for their gradient."""
CLIPPED, PILOT_ROLLOUTS = 0.1, 5
"""The rule for every arm's clip range: it clips this share of the units with an advantage, over so many first rollouts."""
EVALUATIONS, HELD_OUT = 5, 256
"""Evaluations after the start, and episodes in each: the same ones for all seeds and arms."""


@dataclass
class Training:
    """A model, an arm, and three sources of random numbers: for episodes, for sampling, and for the cut into mini-batches."""

    model: Any
    arm: Arm
    turns: int
    lr: float
    seed: int
    clipped: list[float] = field(default_factory=list)
    """The clip fraction of every rollout after the pilot: a share of the units that have an advantage."""

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.drawing = random.Random(f"train {self.seed}")
        self.sampling = torch.Generator(self.device).manual_seed(self.seed)
        self.shuffling = torch.Generator().manual_seed(self.seed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.lr, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1 / LR_WARM_UP, total_iters=LR_WARM_UP)
        self.advice = ClipAdvice(CLIPPED, PILOT_ROLLOUTS)

    def run(self, rollouts: int) -> dict[str, Any]:
        """Train, and evaluate on held-out episodes before, during and after."""
        rewards, evaluations = [], [self.evaluation(0)]
        when = {round(rollouts * part / EVALUATIONS) for part in range(1, EVALUATIONS + 1)}
        for rollout in range(1, rollouts + 1):
            rewards.append(round(self.rollout(), 4))
            if rollout in when:
                evaluations.append(self.evaluation(rollout))
        clip = self.advice.clip
        return {
            "evaluations": evaluations,
            "rewards": rewards,
            "clip_range": None if clip is None else [clip.low, clip.high],
            "clipped": sum(self.clipped) / len(self.clipped) if self.clipped else None,
        }

    def rollout(self) -> float:
        """Sample, judge, and take an optimizer step per mini-batch. Returns the share of right turns."""
        episodes = draw_episodes(PROMPTS, self.turns, self.drawing, held_out=False)
        dialogues = draw(self.model, episodes, GROUP, self.sampling)
        values = self.arm.values(dialogues, np.arange(PROMPTS * GROUP) // GROUP)
        batches = []
        for rows in torch.randperm(PROMPTS * GROUP, generator=self.shuffling).chunk(MINI_BATCHES):
            step = Plan(values.abs().amax(1)).step(self.arm.objective, dialogues.rows(rows).layout, rows)
            live = torch.from_numpy(step.rows)
            batches.append((dialogues.rows(live), values[live], step.denominator))
        with torch.no_grad():  # before the first update: the denominator of all ratios of this rollout
            old = [dialogue_logp(self.model, part) if len(worth) else None for part, worth, _ in batches]
        measured = [self.update(*batch, old_logp) for batch, old_logp in zip(batches, old, strict=True)]
        self.set_clip_range(sum(measured[1:], measured[0]))
        return float(dialogues.rewards.mean())

    def update(self, dialogues: Dialogues, values: Tensor, denominator: Any, old_logp: Tensor | None) -> Pilot:
        """One optimizer step on the dialogues with an advantage. Returns log s and advantages of its units, before the step."""
        for parameter in self.model.parameters():  # zeros, not None: without any gradient AdamW shall still step
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        measured = Pilot([], [], [])
        if old_logp is not None:
            logp = dialogue_logp(self.model, dialogues)
            advantage = self.arm.advantage(values, dialogues)
            loss = policy_loss(self.arm.objective, logp, old_logp, advantage, dialogues.layout, denominator=denominator)
            loss.value.backward()
            measured = self.arm.pilot(logp.detach(), old_logp, values, dialogues)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not bool(torch.isfinite(norm)):
            raise TrainingFailure("a gradient was not finite; lower the learning rate")
        self.optimizer.step()
        self.schedule.step()
        return measured

    def set_clip_range(self, measured: Pilot) -> None:
        """Apply the rule at the end of the pilot; after it, measure the clip fraction of the rule's range."""
        clip = self.advice.clip
        if clip is not None:
            self.clipped.append(measured_clip_fraction(clip, measured).total if len(measured.log_s) else 0.0)
            return
        self.advice.after_rollout(measured)
        if self.advice.clip is not None:
            self.arm = self.arm.clipped_at(self.advice.clip)

    def evaluation(self, rollout: int) -> dict[str, Any]:
        """Held-out dialogues, sampled and greedy: share of right turns, by turn too, and of dialogues without a wrong one."""
        episodes = draw_episodes(HELD_OUT, self.turns, random.Random("held out"), held_out=True)
        generator = torch.Generator(self.device).manual_seed(rollout)
        row: dict[str, Any] = {"rollout": rollout}
        for kind, source in (("sampled", generator), ("greedy", None)):
            rewards = draw(self.model, episodes, 1, source).rewards
            row[kind] = {
                "turns": float(rewards.mean()),
                "success": float(rewards.all(1).mean()),
                "by_turn": rewards.mean(0).round(4).tolist(),
            }
        return row
