"""The arms of the training study, its sizes, and the list of its runs.

An arm is a value: an objective, whose routes are replayed, and whether there are experts at all. A study is sizes, learning
rates, seeds and arms; all arms of a study get the same learning rates, prompts and warmed-up models.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective
from gspo_core.objectives import GATE_ONLY_GSPO, Unclipped


class Replay(Enum):
    """The routes along which the updates run."""

    NONE = "none"
    R2 = "those of the trainer's pass for the old log-probs"
    R3 = "those of the sampler, in the pass for the old log-probs, too"


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    objective: Objective
    replay: Replay = Replay.NONE
    dense: bool = False
    """A dense model with the width of the chosen experts in place of the mixture."""


@dataclass(frozen=True)
class Sizes:
    """Model, task and data of a study."""

    layers: int = 3
    hidden: int = 48
    heads: int = 2
    experts: int = 16
    top_k: int = 2
    normalised_gates: bool = True
    """Gate values of the chosen experts add up to 1; with top_k 1 the router would have no gradient then."""
    symbols: int = 12
    """A prompt's length."""
    alphabet: int = 16
    repeats: int = 1
    """Number of times the response repeats the reversed prompt: it has symbols · repeats tokens."""
    prompts: int = 32
    group: int = 8
    """G: responses to each prompt."""
    mini_batches: int = 8
    rollouts: int = 30
    lr_warm_up: int = 24
    """Optimizer steps over which the learning rate rises: Adam's first steps are the largest for their gradient."""
    noise: float = 0.2
    """Of the routers' inputs while sampling, in units of their root mean square."""
    old_noise: float = 0.0
    """The same in the pass for the old log-probs: a training engine that does not repeat itself."""
    held_out: int = 64
    """Prompts of the evaluation before and after; each is answered four times, without noise."""
    warm_up_reward: float = 0.4
    """Supervised steps stop at this mean reward of sampled responses."""
    warm_up_steps: int = 600
    """And at the latest here."""
    warm_up_lr: float = 3e-3
    warm_up_batch: int = 64
    """Of whole responses."""


@dataclass(frozen=True)
class Study:
    """A grid of runs."""

    name: str
    arms: tuple[Arm, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    sizes: Sizes


@dataclass(frozen=True)
class Job:
    """One run."""

    study: Study
    arm: Arm
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """The name of the run in results.jsonl."""
        return f"{self.study.name}/{self.arm.name}/{self.lr:g}/{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values from which `job_of` makes the job again, in another process."""
        names = {"study": self.study.name, "arm": self.arm.name, "lr": self.lr, "seed": self.seed}
        return names | {"sizes": asdict(self.study.sizes)}

    @property
    def model(self) -> str:
        """The warmed-up model that the run starts from: the same for all arms and learning rates of a seed."""
        return f"{self.study.name}/{'dense' if self.arm.dense else 'moe'}/{self.seed}"


WIDE = (0.2, 0.27)
"""The GSPO paper's range for GRPO."""
BAND = (0.015, 0.02)
"""GSPO's range: fifty times the paper's, for responses of a dozen tokens, not thousands, and a far larger step size."""
MATCHED = (0.0072, 0.0096)
"""GRPO's range with the clip fraction that GSPO has at BAND: docs/studies/moe-training.md has the calibration."""
TIGHT = (0.003, 0.004)

ARMS = (
    Arm("grpo-wide", GRPO.with_clip(*WIDE)),
    Arm("grpo-matched", GRPO.with_clip(*MATCHED)),
    Arm("grpo-tight", GRPO.with_clip(*TIGHT)),
    Arm("gspo-wide", GSPO.with_clip(*WIDE)),
    Arm("gspo-matched", GSPO.with_clip(*BAND)),
    Arm("gspo-tight", GSPO.with_clip(*TIGHT)),
    Arm("gate-only", GATE_ONLY_GSPO.with_clip(*BAND)),
    Arm("gspo-token", GSPO_TOKEN.with_clip(*BAND)),
    Arm("no-clip", replace(GRPO, surrogate=Unclipped())),
    Arm("grpo-wide-r2", GRPO.with_clip(*WIDE), Replay.R2),
    Arm("gspo-matched-r2", GSPO.with_clip(*BAND), Replay.R2),
    Arm("dense-grpo-wide", GRPO.with_clip(*WIDE), dense=True),
    Arm("dense-gspo-matched", GSPO.with_clip(*BAND), dense=True),
)
RESCUE_BAND = (0.0053, 0.0071)
"""BAND for 96 tokens: by 1/√8."""
RESCUE_ARMS = (
    Arm("grpo-wide", GRPO.with_clip(*WIDE)),
    Arm("grpo-wide-r2", GRPO.with_clip(*WIDE), Replay.R2),
    Arm("grpo-wide-r3", GRPO.with_clip(*WIDE), Replay.R3),
    Arm("gspo-matched", GSPO.with_clip(*RESCUE_BAND)),
)
CALIBRATION_BANDS = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Upper widths that the calibration tries for GRPO; the lower width is three quarters of it, as in BAND."""
CALIBRATION_ARMS = (
    Arm("gspo-matched", GSPO.with_clip(*BAND)),
    *(Arm(f"grpo-{high:g}", GRPO.with_clip(0.75 * high, high)) for high in CALIBRATION_BANDS),
)

MAIN = Study("main", ARMS, (1e-3, 2e-3, 3e-3), tuple(range(6)), Sizes())
RESCUE_SIZES = Sizes(
    layers=6, repeats=8, prompts=8, mini_batches=4, rollouts=20, lr_warm_up=8, old_noise=0.2, held_out=16, warm_up_batch=16
)
RESCUE = Study("rescue", RESCUE_ARMS, (3e-4, 1e-3), tuple(range(3)), RESCUE_SIZES)
CALIBRATION = Study("calibration", CALIBRATION_ARMS, (2e-3,), (100, 101), Sizes(rollouts=10))
RESCUE_PILOT = replace(RESCUE, name="rescue-pilot", seeds=(100,), sizes=replace(RESCUE_SIZES, rollouts=6))

LARGE = {"layers": 12, "hidden": 512, "heads": 8, "experts": 64, "top_k": 8, "symbols": 96, "warm_up_lr": 3e-4}
"""Sizes of `--size large`: 0.3 billion parameters, prompts eight times as long. Clip ranges stay, though log s spreads
less over longer responses: it is not calibrated for this size."""
LARGE_LRS = (3e-5, 1e-4, 3e-4)


def large(study: Study) -> Study:
    """The study with the model for a GPU."""
    return replace(study, name=f"large-{study.name}", lrs=LARGE_LRS, sizes=replace(study.sizes, **LARGE))  # type: ignore[arg-type]  # a table of fields


_TOYS = (MAIN, RESCUE, CALIBRATION, RESCUE_PILOT)
STUDIES = {study.name: study for study in (*_TOYS, *map(large, _TOYS))}


def job_of(settings: dict[str, Any]) -> Job:
    """The job whose settings these are."""
    study = replace(STUDIES[settings["study"]], sizes=Sizes(**settings["sizes"]))
    arm = next(arm for arm in study.arms if arm.name == settings["arm"])
    return Job(study, arm, settings["lr"], settings["seed"])


def jobs_of(studies: list[Study]) -> list[Job]:
    """Seed by seed, so that a study that is cut short has whole seeds: within a seed, every arm at every learning rate."""
    seeds = sorted({seed for study in studies for seed in study.seeds})
    return [
        Job(study, arm, lr, seed)
        for seed in seeds
        for study in studies
        if seed in study.seeds
        for lr in study.lrs
        for arm in study.arms
    ]
