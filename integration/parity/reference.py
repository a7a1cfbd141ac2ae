"""The golden file of the parity run: what was sampled, and what each update did to it. comparison.py judges a trainer by it.

golden/config.json         options of the run that are not the defaults
golden/start/              the weights and the tokenizer that it starts from, as transformers saves them
golden/rollouts.json       prompts, responses, rewards, and which responses make up which mini-batch
golden/updates.json        per update, in float32, in float64, and in float64 with longer steps: loss, gradient norm, log s,
                           clip decisions, parameters' marks
golden/float32.safetensors, float64.safetensors      the parameters after the last update
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from gspo_core import Clip, Objective, Padded, plan
from gspo_core.metrics import Metrics
from gspo_core.objectives import LinearLoss
from gspo_core.planning import Plan
from integration.shared.measure import Rollup

Ids = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

FOLDER = Path(__file__).parent / "golden"
START = FOLDER / "start"
CLIP = Clip(0.03, 0.04)
"""The clip range of the run."""
LONGER = 1e-5
"""Share by which every step of the third stored run is longer: comparison.py has the reason."""


@dataclass(frozen=True)
class Rollout:
    """Sampled once. Responses are in the order of their prompts, G to each."""

    prompts: list[list[int]]
    """Token ids."""
    responses: list[list[int]]
    """Token ids, the ending token included."""
    rewards: list[float]
    mini_batches: list[list[int]]
    """Numbers of responses; one optimizer step each."""

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.responses) // len(self.prompts)

    def planned(self) -> Plan:
        """Advantages, and which responses have none."""
        return plan(self.rewards, [index // self.group_size for index in range(len(self.rewards))])

    def padded(self, pad: int) -> tuple[Ids, Mask, Ids, Mask]:
        """Prompts [N, P] padded on the left and their mask, responses [N, T] padded on the right and theirs."""
        prompts = [prompt for prompt in self.prompts for _ in range(self.group_size)]
        return (*_padded(prompts, pad, left=True), *_padded(self.responses, pad, left=False))


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[Ids, Mask]:
    lengths, width = np.array([len(row) for row in rows])[:, None], max(map(len, rows))
    slots = np.arange(width)[None, :]
    mask = slots >= width - lengths if left else slots < lengths
    ids: Ids = np.full(mask.shape, pad)
    ids[mask] = np.concatenate(rows)
    return ids, mask


@dataclass(frozen=True)
class Update:
    """Inputs and results of one optimizer step."""

    loss: float
    grad_norm: float
    """Before it was cut down."""
    log_s: list[float]
    """Of the mini-batch's responses that have an advantage, in its order; nats per token."""
    clipped: list[bool]
    """Likewise."""
    marks: dict[str, float]
    """`mark` of every parameter, after the step."""


class Recorder(Rollup):
    """A rollup that keeps every number of one update, of either framework."""

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective)
        self.loss = self.grad_norm = 0.0
        self.log_s: list[float] = []
        self.clipped: list[bool] = []

    def add_loss(self, loss: LinearLoss, old_logp: Any, advantage: Any, layout: Padded, **rest: Any) -> None:
        """A micro-batch. Rows without a token only fill it up."""
        super().add_loss(loss, old_logp, advantage, layout, **rest)
        there = layout.lengths() > 0
        self.loss += loss.value.item()
        self.log_s += loss.log_ratio[there].tolist()
        self.clipped += loss.clipped[there].tolist()

    def add_step(self, grad_norm: float, left_out: Metrics | None = None, *, skipped: bool) -> None:
        """An optimizer step."""
        super().add_step(grad_norm, left_out, skipped=skipped)
        self.grad_norm = grad_norm

    def update(self, parameters: dict[str, np.ndarray]) -> Update:
        """The recorded steps, and the parameters after them."""
        return Update(self.loss, self.grad_norm, self.log_s, self.clipped, marks(parameters))


class Run(NamedTuple):
    """Results of a trainer on the rollouts."""

    updates: list[Update]
    parameters: dict[str, np.ndarray]
    """At the end, by the names of the checkpoint."""


class Golden(NamedTuple):
    """Everything that the folder holds but the weights at the start."""

    options: dict[str, Any]
    rollouts: list[Rollout]
    float32: Run
    float64: Run
    longer: list[Update]
    """In float64, every step LONGER by that share."""


def mark(parameter: np.ndarray) -> float:
    """Σ cos(k) p_k √(2/n): one number that every entry moves; an error of e everywhere at random moves it by about e."""
    flat = np.asarray(parameter, dtype=np.float64).reshape(-1)
    return float(np.cos(np.arange(flat.size)) @ flat) * math.sqrt(2 / flat.size)


def marks(parameters: dict[str, np.ndarray]) -> dict[str, float]:
    """`mark` of each."""
    return {name: mark(values) for name, values in sorted(parameters.items())}


def save(golden: Golden) -> None:
    """Write all but the weights at the start."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "config.json").write_text(json.dumps(golden.options, indent=1) + "\n")
    (FOLDER / "rollouts.json").write_text(_lines([dataclasses.asdict(r) for r in golden.rollouts]))
    runs = {"float32": golden.float32, "float64": golden.float64}
    lists = {**{name: run.updates for name, run in runs.items()}, "longer": golden.longer}
    rows = [{"run": name, **dataclasses.asdict(update)} for name, updates in lists.items() for update in updates]
    (FOLDER / "updates.json").write_text(_lines(rows))
    for name, run in runs.items():
        save_file({k: np.ascontiguousarray(v, dtype=name) for k, v in run.parameters.items()}, FOLDER / f"{name}.safetensors")


def _lines(rows: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def load() -> Golden:
    """Read the file that `save` wrote."""
    rollouts = [Rollout(**row) for row in json.loads((FOLDER / "rollouts.json").read_text())]
    rows = json.loads((FOLDER / "updates.json").read_text())

    def updates(name: str) -> list[Update]:
        return [Update(**{k: v for k, v in row.items() if k != "run"}) for row in rows if row["run"] == name]

    options = json.loads((FOLDER / "config.json").read_text())
    narrow, wide = (Run(updates(name), dict(load_file(FOLDER / f"{name}.safetensors"))) for name in ("float32", "float64"))
    return Golden(options, rollouts, narrow, wide, updates("longer"))
