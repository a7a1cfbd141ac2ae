"""One family through the training script: is what it computes what the model's own logits say?"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gspo_torch import token_logp
from torch import Tensor

from gspo_core import Padded
from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.sampling.head_check import head_of
from integration.on_torch.sampling.rollout import Responses, Sampler, predicting_states
from integration.on_torch.small_model import build_tokenizer
from integration.options.errors import TrainingFailure, UserError
from integration.shared.pretrained import load_pretrained
from integration.tasks.prompts import Prompter
from integration.tasks.task import Task, load_task
from integration.zoo.models import write_model

TEMPERATURE, PROMPTS, COUNT, LONGEST = 0.7, 5, 3, 10
ALLOWED = {"logp": 1e-3, "gradient": 1e-3, "sampler": 1e-3}
"""Nats of the worst token; norm of the gradient's error over its own norm; nats. Rounding is below a twentieth of each."""


@dataclass(frozen=True)
class Trial:
    """What became of a family."""

    family: str
    verdict: str
    """right, wrong, refused, traceback, not built, or out of time."""
    reason: str = ""
    logp: float | None = None
    gradient: float | None = None
    sampler: float | None = None
    reading: str = ""
    """How the script reads it."""
    seconds: float = 0.0

    def line(self) -> str:
        """For the terminal."""
        errors = [f"{name} {x:.0e}" for name in ALLOWED if (x := getattr(self, name)) is not None]
        return ", ".join(x for x in (f"{self.family}: {self.verdict}", self.reason, self.reading, *errors) if x)


def sweep_task() -> Task:
    """Questions of different lengths."""
    return load_task("spell_backward", ["min_word_len=2", "max_word_len=9"], seed=2, train_size=60, held_out_size=5)


def try_family(family: str, task: Task) -> Trial:
    """Build, save, load, check, sample and score it."""
    began = time.perf_counter()
    found = _tried(family, task)
    return dataclasses.replace(found, seconds=round(time.perf_counter() - began, 1))


def _tried(family: str, task: Task) -> Trial:
    tokenizer = build_tokenizer(task.train)
    ids = torch.tensor([Prompter(tokenizer, "chat").encode(task.train[0])])
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_model(family, tokenizer, ids, Path(folder))
        except Exception as error:  # any: the family is not built, and the row says why
            return Trial(family, "not built", _said(error))
        try:
            device = torch.device("cpu")
            model, loaded = load_pretrained(folder, cache=Path(folder), device=device)
            prompter = Prompter(loaded, "chat")
            stops = torch.arange(4, len(loaded), 8)
            sampler = Sampler(model, prompter, LONGEST, TEMPERATURE, device, stops, keep_logp=True)
            sampler = dataclasses.replace(sampler, reading=require_agreement(model, sampler, task.train[:8]))
            return compared(family, model, sampler, task)
        except (UserError, TrainingFailure) as error:
            return Trial(family, "refused", str(error).replace(folder, "FOLDER"))
        except Exception as error:  # the fault that the sweep is looking for
            return Trial(family, "traceback", _said(error))


def compared(family: str, model: Any, sampler: Sampler, task: Task) -> Trial:
    """The script's responses, log-probs and gradient against the model's own logits."""
    examples = sorted({len(e.question): e for e in task.train}.values(), key=lambda e: len(e.question))[-PROMPTS:]
    drawn = sampler.draw(examples, COUNT, sampler.chooser(3))
    head, layout = head_of(model), Padded(drawn.mask)
    states = predicting_states(model, drawn, sampler.reading)
    mine = token_logp(states, head.weight, drawn.tokens, layout=layout, **head.options(TEMPERATURE))
    theirs = own_logp(model, drawn)
    factors = torch.randn(mine.shape, generator=torch.Generator().manual_seed(1)) * drawn.mask
    ours, oracle = (_gradient(model, (factors * x).sum()) for x in (mine, theirs))
    assert drawn.logp is not None
    errors = {
        "logp": _worst(mine.detach() - theirs.detach(), drawn.mask),
        "gradient": float((ours - oracle).norm() / oracle.norm()),
        "sampler": _worst(drawn.logp - theirs.detach(), drawn.mask),
    }
    off = [name for name, error in errors.items() if not error <= ALLOWED[name]]
    reading = sampler.reading.describe()
    return Trial(family, "wrong" if off else "right", ", ".join(off), reading=reading, **errors)


def own_logp(model: Any, drawn: Responses) -> Tensor:
    """[N, T] by log_softmax of the model's logits, each response alone, without padding, positions or a cache."""
    rows = []
    model.config.get_text_config().use_cache = False
    for prompt, there, tokens, mask in zip(drawn.prompt_ids, drawn.prompt_mask, drawn.tokens, drawn.mask, strict=True):
        question, answer = prompt[there > 0], tokens[mask]
        logits = model(input_ids=torch.cat([question, answer])[None]).logits[0, len(question) - 1 : -1]
        logp = torch.log_softmax(logits.double() / TEMPERATURE, -1).gather(-1, answer[:, None])[:, 0]
        rows.append(torch.nn.functional.pad(logp, (0, len(mask) - len(answer))))
    return torch.stack(rows)


def _gradient(model: Any, value: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, found, strict=True)]
    )


def _worst(error: Tensor, mask: Tensor) -> float:
    return float(error[mask].abs().max())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
