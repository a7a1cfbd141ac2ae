"""The loop around rollouts, for either framework: judge, evaluate, save and report, up to the end, Ctrl-C or a failure."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from gspo_core import plan
from gspo_core.advantages import ZScore
from gspo_core.planning import Plan
from integration.options.choices import NORMALISERS
from integration.options.config import Config
from integration.options.errors import NotWritten, ProcessLost, TrainingFailure
from integration.records.environment import environment
from integration.records.findings import Announcer
from integration.records.report import summary, write_report
from integration.records.run_folder import RunFolder
from integration.records.tracker import Tracker
from integration.rewards.verdicts import failure_findings, failures
from integration.shared.cores import Neighbours
from integration.shared.evaluation import evaluate
from integration.shared.interrupt import Abandoned, StopOnSignal, Stopping
from integration.shared.pace import Pace
from integration.shared.ranks import Ranks, shared
from integration.tasks.task import CORRECT, Example, Task


class Run(Protocol):
    """The interface that the loop needs of a trainer, of PyTorch or of JAX."""

    config: Config
    folder: RunFolder
    task: Task
    sampler: Any
    step: int
    unfinished: Any
    """The rest of a rollout that was stopped between two optimizer steps; None between two rollouts."""

    @property
    def ranks(self) -> Ranks:
        """The run's processes."""

    def save(self) -> None:
        """A checkpoint at the current step."""

    def give_up(self) -> None:
        """Undo what the rollout under way changed, if it did already. It was given up before its first optimizer step."""


OneRollout = Callable[[Stopping], dict[str, Any]]
"""Does a rollout, and calls `finish` before the first optimizer step: what came before may be given up. Returns metrics.

If a stop is requested it may raise Abandoned between two steps, with the rest of the rollout in `unfinished`."""


def run(trainer: Run, one_rollout: OneRollout) -> int:
    """Rollouts to the end, to Ctrl-C or to a failure; each gives its line of metrics. Returns the exit status.

    A failure in the middle of a rollout saves nothing: the last checkpoint is between two rollouts, and stays as it is.
    """
    folder, stop, first = trainer.folder, StopOnSignal(trainer.ranks), trainer.ranks.rank == 0
    tracker = Tracker(trainer.config.tracker if first else "none", folder.path.name, trainer.config.to_json())
    folder.listeners.append(tracker.log)
    try:
        folder.note("environment.jsonl", environment(trainer.config, trainer.ranks.count))
        rollouts(trainer, one_rollout, stop)
        if first:
            print(f"\n{summary(folder)}\nreport: {write_report(folder)}")
    except KeyboardInterrupt:
        print(saved_so_far(folder), file=sys.stderr)
        raise
    except NotWritten:
        raise  # it says where to go on, and a report could not be written either
    except TrainingFailure as error:
        try:
            if first:
                write_report(folder)
        except NotWritten as second:
            print(f"no report: {second}", file=sys.stderr)
        raise TrainingFailure(f"{error}. {folder_state(folder, error)}") from error
    finally:
        folder.close()
        tracker.end()
        stop.leave()
    if stop.requested and not finished(trainer):
        print(f"stopped after rollout {trainer.step}; {saved_so_far(folder)}")
        return 130
    print(f"the trained model: AutoModelForCausalLM.from_pretrained({str(folder.checkpoints()[-1])!r})")
    return 0


def finished(trainer: Run) -> bool:
    """Whether all rollouts are done, and the last evaluation."""
    return trainer.step == trainer.config.rollouts and not evaluation_due(trainer)


def evaluation_due(trainer: Run) -> bool:
    """Whether the policy is to be evaluated at this step, and was not yet: an evaluation may have been given up."""
    config, step = trainer.config, trainer.step
    due = step in (0, config.rollouts) or (config.eval_every > 0 and step % config.eval_every == 0)
    return due and all(row["step"] != step for row in trainer.folder.rows("evaluations.jsonl"))


def rollouts(trainer: Run, one_rollout: OneRollout, stop: StopOnSignal) -> None:
    """All that are left, with evaluations and checkpoints between them, up to the end or a stop."""
    try:
        _rollouts(trainer, one_rollout, stop)
    except Abandoned:
        saved = trainer.folder.checkpoints()
        if trainer.unfinished is not None or (trainer.step and not (saved and int(saved[-1].name) == trainer.step)):
            trainer.save()


def _rollouts(trainer: Run, one_rollout: OneRollout, stop: StopOnSignal) -> None:
    config = trainer.config
    pace = Pace(rollouts=config.rollouts, done=trainer.step, eval_every=config.eval_every)
    neighbours = Neighbours(config.threads or 1)
    announcer = Announcer(trainer.folder.rows("metrics.jsonl"))
    if evaluation_due(trainer):
        evaluation(trainer, stop)
    with tqdm(total=config.rollouts, initial=trainer.step, desc=config.objective, unit="rollout") as bar:
        while trainer.step < config.rollouts and not stop.asked():
            with stop.giving_up():
                try:
                    row = one_rollout(stop)
                except Abandoned:
                    trainer.give_up()
                    raise
            row["findings"] = [*row["findings"], *failure_findings(row, config.prompts_per_rollout * config.group_size)]
            trainer.step += 1
            trainer.folder.append("metrics.jsonl", {"step": trainer.step, **row})
            announcer.after_rollout(trainer.step, row)
            crowd = neighbours.after_rollout()
            if crowd is not None:
                tqdm.write(crowd)
            bar.set_postfix(reward=f"{row['reward']:.3f}", clip=f"{row['clip_fraction']:.2f}")
            bar.update()
            seconds = row["seconds_sampling"] + row["seconds_updating"]
            pace.after_rollout(seconds, trainer.folder.rows("evaluations.jsonl"))
            if evaluation_due(trainer):
                evaluation(trainer, stop)
            if stop.asked() or trainer.step == config.rollouts or trainer.step % config.checkpoint_every == 0:
                trainer.save()


def saved_so_far(folder: RunFolder) -> str:
    """How to go on with what there is."""
    saved = folder.checkpoints()
    if not saved:
        return f"nothing was saved yet; begin again with --resume {folder.path}"
    return f"all is saved up to here; go on with --resume {folder.path}"


def folder_state(folder: RunFolder, error: TrainingFailure) -> str:
    """What is saved after a failure, and how to go on."""
    if isinstance(error, ProcessLost):
        saved = folder.checkpoints()
        kept = f"The last checkpoint is of rollout {int(saved[-1].name)}" if saved else "No checkpoint was saved before"
        return f"{kept}: start it again with --resume {folder.path}, on as many processes as you like"
    return way_on(folder)


def way_on(folder: RunFolder) -> str:
    """What a person can do after a failure."""
    saved = folder.checkpoints()
    if not saved:
        return "No checkpoint was saved before"
    return (
        f"The last checkpoint is of rollout {int(saved[-1].name)}: go on from it, or from an earlier --resume-step, with "
        f"another --lr by --resume {folder.path} --run-dir NEW --lr ..."
    )


@dataclass(frozen=True)
class Judged:
    """A rollout's responses, scored."""

    rewards: list[float]
    correct: list[float]
    planned: Plan
    failures: dict[str, int]
    """Answers on which the verifier failed, by kind; they score 0."""

    def row(self) -> dict[str, Any]:
        """Its part of the line of metrics."""
        count = len(self.rewards)
        return {
            "reward": sum(self.rewards) / count,
            "accuracy": sum(self.correct) / count,
            "verifier_errors": sum(self.failures.values()),
            "verifier_failures": self.failures,
        }


def judge(trainer: Run, examples: list[Example], texts: list[str]) -> Judged:
    """Every response against its group; `texts` holds each example's responses one after the other."""
    size = trainer.config.group_size
    owners = [e for e in examples for _ in range(size)]
    pairs = list(zip(owners, texts, strict=True))
    verdicts = shared(trainer.ranks, pairs, lambda own: trainer.task.verdicts(*zip(*own, strict=True)))
    scores = [verdict.score for verdict in verdicts]
    correct = [float(score >= CORRECT) for score in scores]
    rewards = correct if trainer.config.reward == "correct" else scores
    groups = [index // size for index in range(len(rewards))]
    normaliser = NORMALISERS.get(trainer.config.objective, ZScore())
    planned = plan(rewards, groups, normaliser, loss_has_other_terms=trainer.config.kl_estimator is not None)
    return Judged(rewards, correct, planned, failures(verdicts))


def evaluation(trainer: Run, stop: StopOnSignal) -> None:
    """Held-out accuracy, sampled and greedy, and transcripts. Abandoned, and nothing is written, if it is given up."""
    began = time.perf_counter()
    with stop.giving_up():
        result = evaluate(
            trainer.task, trainer.sampler, samples=trainer.config.eval_samples, seed=trainer.config.seed, ranks=trainer.ranks
        )
    row = {
        "step": trainer.step,
        "sampled_accuracy": sum(result.sampled) / len(result.sampled),
        "greedy_accuracy": sum(result.greedy) / len(result.greedy),
        "sampled": result.sampled,
        "greedy": result.greedy,
        "seconds": round(time.perf_counter() - began, 3),
    }
    trainer.folder.append("evaluations.jsonl", row)
    name = "before" if trainer.step == 0 else f"after-{trainer.step:06d}"
    trainer.folder.write_json(f"transcripts/{name}.json", result.transcripts)


def count_step(trainer: Any, *, finite: bool) -> None:
    """Count an optimizer step that was taken, or skipped; TrainingFailure after too many skipped in a row."""
    trainer.bad_steps = 0 if finite else trainer.bad_steps + 1
    trainer.optimizer_steps += finite
    if trainer.bad_steps >= trainer.config.max_bad_steps:
        raise TrainingFailure(
            f"{trainer.bad_steps} gradients in a row were not finite, in rollout {trainer.step + 1}: those steps were skipped. "
            f"Read the last lines of {trainer.folder.path / 'metrics.jsonl'}, and lower --lr"
        )
