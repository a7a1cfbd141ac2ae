"""A run, made ready: new, or put where its last checkpoint is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from gspo_torch.routing.routers import mixture_of

from integration.on_torch.adapters import add_adapter, frozen_fingerprint, load_adapter, trained
from integration.on_torch.checkpoint import load_state
from integration.on_torch.memory import check_memory
from integration.on_torch.parallel.context_check import require_context
from integration.on_torch.parallel.processes import Processes
from integration.on_torch.parallel.wrapping import wrapped
from integration.on_torch.recompute import enable_recomputing
from integration.on_torch.reference import Reference, load_start
from integration.on_torch.sampling.agreement import require_agreement
from integration.on_torch.sampling.engine import Engine, in_bfloat16
from integration.on_torch.sampling.reading import Reading
from integration.on_torch.sampling.rollout import Drawing, Sampler
from integration.on_torch.sampling.vllm_engine import vllm_engine
from integration.on_torch.trainer import Trainer
from integration.on_torch.unfinished import load_unfinished
from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.resuming import open_run, remember
from integration.records.clip_advice import ClipAdvice
from integration.records.following import FollowingFolder
from integration.records.run_folder import RunFolder
from integration.shared.cores import free_cores
from integration.shared.gguf_files import gguf_file
from integration.shared.pretrained import compute_in, load_pretrained, source_of
from integration.shared.ranks import Ranks, from_first
from integration.tasks.prompts import Prompter, ends_of, require_known_tokens, require_room
from integration.tasks.record import begin, require_same_questions
from integration.tasks.task import Task, load_task, parse_args

T = TypeVar("T")


def prepare(config: Config, processes: Processes | None = None) -> Trainer:
    """Everything a run needs, new or resumed."""
    processes = Processes.alone(config) if processes is None else processes
    device, ranks = processes.device, processes.ranks
    config, folder, checkpoint = opened(config, ranks)
    torch.set_num_threads(config.threads or 1)
    print(f"loading {config.model} and {config.task}, {config.threads} CPU thread(s){processes.described()}", flush=True)
    task = load_task(
        config.task, config.task_args, seed=config.seed, train_size=config.train_size, held_out_size=config.eval_prompts,
        seconds=config.verifier_seconds,
    )  # fmt: skip
    # What is converted or warmed up is made by process 0; the others then find it in the cache.
    model, tokenizer = one_after_another(ranks, lambda: loaded(config, task, checkpoint, device, ranks))
    mixture = has_routers(model, config)
    copied = in_bfloat16(model) if config.sampler_dtype == "bfloat16" and config.sampler == "transformers" else None
    prompter = prompter_of(config, task, tokenizer, ends_of(model.generation_config.eos_token_id))
    require_known_tokens(embeddings_of(model), prompter, task)
    stop_ids = torch.tensor(prompter.stop_ids(), device=device)
    sampler = Sampler(model, prompter, config.max_new_tokens, config.temperature, device, stop_ids)
    reading = ranks.gather(require_agreement(model, sampler, task.train[:8]))[0]
    if processes.context is not None:
        require_context(model, processes.context, reading)
        mixture = False  # routes are of whole texts; without --routing-replay nothing but a metric needs them
    mixture = mixture and routes_can_be_kept(model, config, reading)
    compute_in(model, getattr(torch, config.dtype))
    if config.gradient_checkpointing:
        enable_recomputing(model)
    frozen = None if config.lora_rank is None else frozen_fingerprint(model)
    passes = wrapped(model, config, processes, torch.tensor([prompter.encode(task.train[0])], device=device))
    sampler = dataclasses.replace(sampler, reading=reading, ranks=ranks, whole=passes.whole)
    trainer = Trainer(
        config, folder, task, model, config.build_objective(),
        torch.optim.AdamW(trained(model), lr=config.lr, weight_decay=0.0, fused=True), sampler,
        torch.Generator(device).manual_seed(config.seed), torch.Generator().manual_seed(config.seed), passes,
        advice=None if config.clip_fraction is None else ClipAdvice(config.clip_fraction, config.pilot_rollouts),
        engine=build_engine(config, sampler, copied, mixture, task), mixture=mixture,
        reference=None if config.kl_estimator is None else Reference(config, task, device), processes=processes,
        frozen=frozen,
    )  # fmt: skip
    start(trainer, checkpoint)
    return trainer


def opened(config: Config, ranks: Ranks) -> tuple[Config, RunFolder, Path | None]:
    """As `open_run`, which process 0 does; the other processes follow it. The options have their number of threads."""
    own: list[RunFolder] = []

    def first() -> tuple[Config, Path, Path | None]:
        ready, folder, checkpoint = open_run(config)
        own.append(folder)
        # The number is saved: sums over another number of threads differ in their last digits.
        threads = ready.threads or max(1, min(free_cores(), torch.get_num_threads()) // ranks.count)
        return dataclasses.replace(ready, threads=threads), folder.path, checkpoint

    ready, path, checkpoint = from_first(ranks, first)
    return ready, own[0] if own else FollowingFolder(path), checkpoint


def one_after_another(ranks: Ranks, load: Callable[[], T]) -> T:
    """What `load` returns in each process; process 0 is first, and the others begin when it is done."""
    if ranks.rank == 0:
        mine: list[T] = []
        from_first(ranks, lambda: mine.append(load()))
        return mine[0]
    from_first(ranks, lambda: None)
    return load()


def loaded(config: Config, task: Task, checkpoint: Path | None, device: torch.device, ranks: Ranks) -> tuple[Any, Any]:
    """(model, tokenizer) to begin or to go on with, adapters included; UserError if they do not fit the memory or the task."""
    source = str(config.model if checkpoint is None or config.lora_rank is not None else checkpoint)
    folder = source if gguf_file(source) is None else source_of(source, config.cache_dir)
    check_memory(config, task, folder, device, ranks.rank, ranks.count)

    def ready(tokenizer: Any, model_config: Any) -> None:
        require_room(model_config, prompter_of(config, task, tokenizer), task, config.max_new_tokens)

    if checkpoint is None or config.lora_rank is not None:
        model, tokenizer = load_start(config, task, device, ready)
    else:
        model, tokenizer = load_pretrained(str(checkpoint), cache=config.cache_dir, device=device)
    if config.lora_rank is not None:
        add_adapter(model, config) if checkpoint is None else load_adapter(model, checkpoint)
    return model, tokenizer


def start(trainer: Trainer, checkpoint: Path | None) -> None:
    """Begin the run's folder, or put the trainer where the checkpoint is; then say what is trained."""
    config, folder, task, model = trainer.config, trainer.folder, trainer.task, trainer.model

    def files() -> tuple[dict[str, Any], list[Path]]:
        if config.resume is None:
            folder.create(config.to_json())
            begin(task, folder, config.given_files)
        else:
            remember(config, folder)
        folder.rewind(-1 if checkpoint is None else trainer.step)
        return {name: folder.rows(name) for name in ("metrics.jsonl", "evaluations.jsonl")}, folder.checkpoints()

    if config.resume is not None:
        from_first(trainer.ranks, lambda: require_same_questions(task, folder, config.given_files))
    if checkpoint is not None:
        trainer.restore(load_state(checkpoint, model, trainer.optimizer, trainer.ranks))
        trainer.unfinished = load_unfinished(checkpoint, trainer.processes.device)
        if trainer.unfinished is not None and trainer.ranks.count > 1:
            raise UserError(
                f"--resume: {checkpoint} is in the middle of a rollout of one process; go on with one process until the next "
                "checkpoint, or from an earlier one with --resume-step"
            )
    known = from_first(trainer.ranks, files)
    if isinstance(folder, FollowingFolder):
        folder.follow(*known)
    size, moving = (sum(p.numel() for p in some) for some in (model.parameters(), trained(model)))
    part = "" if moving == size else f", of which {moving:,} are trained"
    print(
        f"{config.model}: {size:,} parameters{part}. {config.task}: {len(task.train)} questions, {len(task.held_out)} held out."
    )
    print(f"run folder: {folder.path}", flush=True)


def prompter_of(config: Config, task: Task, tokenizer: Any, ends: tuple[int, ...] = ()) -> Prompter:
    """The form of this run's prompts, and the ids that end a response; UserError if the tokenizer has no such form."""
    template_args = tuple(parse_args("--template-args", config.template_args).items())
    return Prompter(tokenizer, config.prompt, tuple(task.train[: config.shots]), config.instruction, template_args, ends)


def has_routers(model: Any, config: Config) -> bool:
    """Whether the model's routes can be recorded; UserError if they cannot, and the options need them."""
    try:
        mixture = bool(mixture_of(model).routers)
    except TypeError as error:  # a mixture of a kind that is not known, which can be trained without these options
        if config.routing_replay != "none" or config.router_noise:
            raise UserError(f"--routing-replay, --router-noise: {error}") from error
        return False
    if not mixture:
        config.require_mixture(config.model)
    return mixture


def embeddings_of(model: Any) -> int:
    """How many tokens a model has an embedding for; by its config if it does not say where they are."""
    try:
        return len(model.get_input_embeddings().weight)
    except (NotImplementedError, AttributeError):
        return int(model.config.get_text_config().vocab_size)


def routes_can_be_kept(model: Any, config: Config, reading: Reading) -> bool:
    """Whether routes are those of one padded batch; UserError if they are not, and the options need them."""
    if not reading.padded and config.routing_replay != "none":
        raise UserError(
            f"--routing-replay: {type(model).__name__} is right without padding only, one length at a time, and routes are "
            "replayed in padded batches"
        )
    return reading.padded


def build_engine(config: Config, sampler: Sampler, copied: Any, mixture: bool, task: Task) -> Drawing | None:
    """vLLM, or the sampler, or one on a copy of its model, that writes down what the trainer needs of it; None if nothing."""
    if config.sampler == "vllm":
        return vllm_engine(config, sampler, task)
    if not config.mismatch and config.routing_replay != "r3":
        return None
    model = sampler.model if copied is None else copied
    recording = dataclasses.replace(sampler, model=model, keep_logp=config.mismatch, keep_routes=mixture)
    return Engine(recording, sampler.model, config.router_noise)
