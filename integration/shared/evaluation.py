"""Accuracy on held-out prompts, of a sampler of either framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from integration.shared.pace import QUIET
from integration.shared.ranks import OneProcess, Ranks, shared
from integration.tasks.task import CORRECT, Task

EVALUATED = 256
"""Responses that are drawn at a time, at most."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on held-out prompts."""

    sampled: list[float]
    """Per prompt, the share of sampled responses that are right."""
    greedy: list[float]
    """Per prompt, 1.0 if the greedy response is right."""
    transcripts: list[dict[str, Any]]
    """A few prompts with their responses and scores."""


def evaluate(
    task: Task, sampler: Any, *, samples: int, seed: int, batch: int = EVALUATED, ranks: Ranks | None = None
) -> Evaluation:
    """Sampled and greedy accuracy on the held-out prompts.

    Args:
        task: its held-out prompts and its verifier.
        sampler: of either framework, with `chooser`, `draw` and `texts`.
        samples: sampled responses to each prompt; there is one greedy response.
        seed: of random numbers that no rollout uses.
        batch: responses that are drawn at a time, at most.
        ranks: the processes that share the work; each has the whole result.
    """
    ranks = OneProcess() if ranks is None else ranks
    generator = sampler.chooser(seed)
    sampled: list[float] = []
    greedy: list[float] = []
    transcripts: list[dict[str, Any]] = []
    step = max(1, batch // samples)
    starts = range(0, len(task.held_out), step)
    for start in tqdm(starts, desc=f"evaluating {len(task.held_out)} held-out questions", unit="batch", **QUIET):
        examples = task.held_out[start : start + step]
        for count, chooser, into in ((samples, generator, sampled), (1, None, greedy)):
            responses = sampler.draw(examples, count, chooser)
            texts = sampler.texts(responses)
            pairs = list(zip((e for e in examples for _ in range(count)), texts, strict=True))
            judged = shared(ranks, pairs, lambda own: task.scores(*zip(*own, strict=True)))
            for index, example in enumerate(examples):
                own = texts[index * count : (index + 1) * count]
                scores = judged[index * count : (index + 1) * count]
                into.append(sum(s >= CORRECT for s in scores) / count)
                if len(transcripts) < 20 and chooser is not None:
                    transcripts.append({"question": example.question, "answer": example.answer, "texts": own, "scores": scores})
    return Evaluation(sampled, greedy, transcripts)
