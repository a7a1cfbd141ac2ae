"""Options that contradict each other, or have no effect: refused at once, in one sentence that names the option."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from integration.options.errors import UserError
from integration.options.pairs import parse_args
from integration.options.ranges import check_values
from integration.options.sizes import Experts, WarmUp
from integration.options.task_names import require_known, written_names
from integration.options.words import require_objective

if TYPE_CHECKING:
    from integration.options.config import Config

PILOT_ROLLOUTS = 10
"""The default of --pilot-rollouts."""


def check(config: Config) -> None:
    """UserError for the first option that is out of its range, or does not go with the others."""
    check_values(config)
    _check_batches(config)
    _check_small(config)
    _check_mixture(config)
    _check_vllm(config)
    _check_pilot(config)
    _check_resume(config)
    _check_lora(config)
    if config.tracker != "none" and find_spec(config.tracker) is None:
        raise UserError(
            f"--tracker: {config.tracker} is not installed; run `pip install {config.tracker}`, or leave the option out"
        )
    parse_args("--task-args", config.task_args)
    parse_args("--template-args", config.template_args)
    if config.prompt == "plain" and config.template_args:
        raise UserError("--template-args: only --prompt chat has a template")
    if config.shots > config.train_size:
        raise UserError(f"--shots: expected at most the {config.train_size} of --train-size, got {config.shots}")
    if config.train_size < config.eval_prompts:
        raise UserError(
            f"--train-size: expected at least the {config.eval_prompts} questions of --eval-prompts, got {config.train_size}"
        )
    require_objective(config.objective)
    _check_names(config)
    _check_engine(config)
    _check_kl(config)
    config.build_objective()  # here at the latest the core is imported


def _check_lora(config: Config) -> None:
    if config.lora_alpha is not None and config.lora_rank is None:
        raise UserError("--lora-alpha: scales adapters; give them a rank, such as --lora-rank 16")
    if config.lora_rank is not None and find_spec("peft") is None:
        raise UserError('--lora-rank: peft is not installed; run `pip install -e ".[lora]"`, or leave the option out')


def _check_names(config: Config) -> None:
    """What can be known to be missing before anything is imported."""
    known = written_names()
    if known and not config.task.endswith(".py"):
        require_known(config.task, known)
    path = Path(config.model).expanduser()
    if (path.is_absolute() or config.model.startswith(".")) and not path.exists():
        raise UserError(f"--model: there is no {path}; name a folder of transformers, a file.gguf, or an id of the hub")


def _check_batches(config: Config) -> None:
    total = config.prompts_per_rollout * config.group_size
    if total % config.mini_batches:
        raise UserError(f"--mini-batches: {total} responses cannot be cut into {config.mini_batches} equal mini-batches")

    if config.micro_batch_size is not None and config.micro_batch_tokens is not None:
        raise UserError("--micro-batch-tokens: takes the place of --micro-batch-size; give one of them")


def _check_small(config: Config) -> None:
    warm_up = config.warm_up
    if config.model not in {"small", "small-moe"} and warm_up != WarmUp():
        raise UserError("--warm-up: only --model small and small-moe have a warm-up")
    if warm_up.hidden % 8:
        raise UserError(f"--warm-up.hidden: expected a multiple of 8 (4 heads of an even width), got {warm_up.hidden}")
    if warm_up.check_every > warm_up.max_steps:
        raise UserError(
            f"--warm-up.check-every: expected at most the {warm_up.max_steps} of --warm-up.max-steps, after which nothing is "
            f"checked any more, got {warm_up.check_every}"
        )


def _check_mixture(config: Config) -> None:
    experts = config.experts
    if config.model != "small-moe" and experts != Experts():
        raise UserError("--experts: only --model small-moe has experts to size")
    if experts.top_k > experts.count:
        raise UserError(f"--experts.top-k: expected 1 to {experts.count}, --experts.count, got {experts.top_k}")
    if experts.top_k > 3 * config.warm_up.hidden:
        raise UserError(
            f"--experts.top-k: expected at most three times --warm-up.hidden, {3 * config.warm_up.hidden}, so that an expert "
            f"has a unit, got {experts.top_k}"
        )
    if config.model in {"small", "smollm2"}:
        config.require_mixture(config.model)
    if config.routing_replay != "none" and config.context_parallel > 1:
        raise UserError(
            "--context-parallel: shares the tokens of a text out, and --routing-replay has the routes of whole texts"
        )
    if config.routing_replay == "r2" and config.mini_batches == 1:
        raise UserError("--routing-replay r2: with --mini-batches 1 every update uses the old weights, so replay has no effect")


def _check_vllm(config: Config) -> None:
    if config.sampler != "vllm":
        if config.sampler_memory != 0.4:
            raise UserError("--sampler-memory: only --sampler vllm has a share of its own")
        return
    if find_spec("vllm") is None:
        raise UserError('--sampler vllm: it is not installed; run `pip install -e ".[vllm]"`, or leave the option out')
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--sampler vllm: works in a run of one process; use --sampler transformers")
    if config.router_noise:
        raise UserError("--router-noise: is put on the model's own routers, which --sampler vllm does not use")
    if config.routing_replay == "r3":
        raise UserError("--routing-replay r3: needs the sampler's routes, which --sampler vllm does not give; use r2")
    if config.lora_rank is not None:
        raise UserError("--lora-rank: --sampler vllm gets whole models; use --sampler transformers")


def _check_engine(config: Config) -> None:
    if config.sampler_correction == "none":
        return
    if not config.mismatch:
        raise UserError(
            "--sampler-correction: without --router-noise, --sampler-dtype or --sampler vllm they agree: all weights are 1"
        )
    correction = config.correction
    if correction is not None and correction.level.per_token and not config.build_objective().ratio.per_token:
        raise UserError(
            f"--sampler-correction {config.sampler_correction}: has a weight per token, and --objective {config.objective} has "
            "one ratio per response; use mis, sequence-tis or a rejection, or --objective gspo-token"
        )


def _check_pilot(config: Config) -> None:
    if config.clip_fraction is None:
        if config.pilot_rollouts != PILOT_ROLLOUTS:
            raise UserError("--pilot-rollouts: only --clip-fraction has a pilot")
        return
    if config.clip_low is not None or config.clip_high is not None:
        raise UserError("--clip-fraction: chooses the clip range from a pilot; leave out --clip-low and --clip-high")
    if config.objective != "gspo":
        raise UserError(f"--clip-fraction: predicts log s of whole responses, --objective gspo, not {config.objective}")
    if config.mini_batches == 1 or config.lr == 0:
        raise UserError("--clip-fraction: with --mini-batches 1 or --lr 0 every ratio is 1 and nothing is ever clipped")
    if config.pilot_rollouts >= config.rollouts and config.resume is None:
        raise UserError(f"--pilot-rollouts: expected fewer than the {config.rollouts} rollouts, got {config.pilot_rollouts}")


def _check_kl(config: Config) -> None:
    if config.kl == "none" and config.kl_coefficient is not None:
        raise UserError("--kl-coefficient: is the factor of a penalty; name its estimator, such as --kl token")
    if config.kl != "none" and config.kl_coefficient is None:
        raise UserError(f"--kl-coefficient: expected the factor of --kl {config.kl}, such as 0.001")
    if config.kl == "none" and config.kl_cap is not None:
        raise UserError("--kl-cap: bounds a penalty; name its estimator, such as --kl k3")
    estimator = config.kl_estimator
    if estimator is not None and not estimator.per_token and config.build_objective().reduction.sums_tokens:
        raise UserError(
            f"--kl {config.kl}: has one estimate per response, and --objective {config.objective} weighs tokens; use --kl token"
        )


def _check_resume(config: Config) -> None:
    if config.resume_step is not None and (config.resume is None or config.run_dir is None):
        raise UserError("--resume-step: goes with --resume and a new --run-dir, into which the run is copied up to that step")
