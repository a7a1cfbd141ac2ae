"""Options that contradict each other, or have no effect, are refused in one sentence that names the option."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.runs import fake_vllm

from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.sizes import Experts, WarmUp

MOE = {"model": "small-moe"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"checkpoint_every": 0}, "--checkpoint-every: expected at least 1, got 0"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints: expected at least 1, got 0"),
        ({"train_size": 0}, "--train-size: expected at least 1, got 0"),
        ({"train_size": 199}, "--train-size: expected at least the 200 questions of --eval-prompts, got 199"),
        ({"eval_every": -1}, "--eval-every: expected at least 0, got -1"),
        ({"shots": -1}, "--shots: expected at least 0, got -1"),
        ({"clip_fraction": 1.0}, r"--clip-fraction: expected a share in \(0, 1\), got 1.0"),
        (
            {"clip_fraction": 0.1, "clip_low": 0.03},
            "--clip-fraction: chooses the clip range from a pilot; leave out --clip-low",
        ),
        (
            {"clip_fraction": 0.1, "clip_high": 0.03},
            "--clip-fraction: chooses the clip range from a pilot; leave out --clip-low",
        ),
        ({"clip_fraction": 0.1, "objective": "grpo"}, "--clip-fraction: predicts log s of whole responses"),
        ({"clip_fraction": 0.1, "mini_batches": 1}, "--clip-fraction: with --mini-batches 1 or --lr 0 every ratio is 1"),
        ({"clip_fraction": 0.1, "lr": 0.0}, "--clip-fraction: with --mini-batches 1 or --lr 0 every ratio is 1"),
        ({"clip_fraction": 0.1, "rollouts": 10}, "--pilot-rollouts: expected fewer than the 10 rollouts, got 10"),
        ({"pilot_rollouts": 3}, "--pilot-rollouts: only --clip-fraction has a pilot"),
        ({"pilot_rollouts": 0}, "--pilot-rollouts: expected at least 1, got 0"),
        ({"routing_replay": "r3"}, "--routing-replay: --model smollm2 has no routers; use a mixture of experts"),
        ({"router_noise": 0.1, "model": "small"}, "--router-noise: --model small has no routers"),
        ({"router_noise": -0.1, **MOE}, "--router-noise: expected at least 0, got -0.1"),
        ({"router_noise": math.inf, **MOE}, r"--router-noise: expected a number in \[0, 100\], got inf"),
        (
            {"routing_replay": "r2", "mini_batches": 1, **MOE},
            "--routing-replay r2: with --mini-batches 1 every update uses the old weights",
        ),
        ({"sampler_correction": "mis"}, "--sampler-correction: without --router-noise, --sampler-dtype or --sampler vllm"),
        ({"sampler": "vllm"}, "--sampler vllm: it is not installed; run `pip install -e"),
        ({"sampler_memory": 0.5}, "--sampler-memory: only --sampler vllm has a share of its own"),
        ({"sampler_memory": 1.0}, r"--sampler-memory: expected a share in \(0, 1\), got 1"),
        ({"routing_replay": "r3", "context_parallel": 2, **MOE}, "--context-parallel: shares the tokens of a text out"),
        ({"context_parallel": 0}, "--context-parallel: expected at least 1, got 0"),
        ({"vocabulary_parallel": 0}, "--vocabulary-parallel: expected at least 1, got 0"),
        (
            {"sampler_correction": "tis", "sampler_dtype": "bfloat16"},
            "--sampler-correction tis: has a weight per token, and --objective gspo has one ratio per response",
        ),
        ({"experts": Experts(count=4), "model": "small"}, "--experts: only --model small-moe has experts to size"),
        ({"experts": Experts(count=4, top_k=5), **MOE}, "--experts.top-k: expected 1 to 4, --experts.count, got 5"),
        ({"experts": Experts(top_k=0), **MOE}, "--experts.top-k: expected at least 1, got 0"),
        ({"warm_up": WarmUp(hidden=8)}, "--warm-up: only --model small and small-moe have a warm-up"),
        ({"objective": "sapo", "clip_low": 0.1}, r"--clip-low: --objective sapo has no clip range, but SoftGate\("),
        ({"objective": "gmpo", "clip_high": 0.1}, r"--clip-high: --objective gmpo has no clip range, but Unclipped\("),
        ({"objective": "GSPO"}, "--objective: expected gspo, gspo-token, .* or FILE.py:NAME, got GSPO"),
        (
            {"sampler_correction": "tis", "sampler_dtype": "bfloat16", "objective": "luspo"},
            "--sampler-correction tis: has a weight per token, and --objective luspo has one ratio per response",
        ),
        ({"kl_cap": 1.0}, "--kl-cap: bounds a penalty; name its estimator, such as --kl k3"),
        ({"kl": "k3", "kl_coefficient": 0.1, "kl_cap": 0.0}, r"--kl-cap: expected a number in \(0, 1000\], got 0"),
        (
            {"kl": "sequence-k2", "kl_coefficient": 0.1, "objective": "dapo"},
            "--kl sequence-k2: has one estimate per response, and --objective dapo weighs tokens",
        ),
        ({"kl_coefficient": 0.1}, "--kl-coefficient: is the factor of a penalty; name its estimator, such as --kl token"),
        ({"kl": "token"}, "--kl-coefficient: expected the factor of --kl token, such as 0.001"),
        ({"kl": "k3", "kl_coefficient": -0.1}, "--kl-coefficient: expected at least 0, got -0.1"),
        ({"kl": "k3", "kl_coefficient": math.nan}, r"--kl-coefficient: expected a number in \[0, 1000\], got nan"),
        ({"prompt": "plain", "template_args": ("a=1",)}, "--template-args: only --prompt chat has a template"),
    ],
)
def test_an_option_without_effect_or_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        Config(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"router_noise": 0.1, **MOE}, "--router-noise: is put on the model's own routers"),
        ({"routing_replay": "r3", **MOE}, "--routing-replay r3: needs the sampler's routes"),
        ({"lora_rank": 4}, "--lora-rank: --sampler vllm gets whole models"),
    ],
)
def test_where_vllm_is_installed_it_goes_with_the_options_that_reach_it(
    options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vllm.install(monkeypatch)
    assert Config(sampler="vllm", sampler_correction="mis", sampler_memory=0.3).mismatch
    with pytest.raises(UserError, match=f"^{says}"):
        Config(sampler="vllm", **options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^--sampler vllm: works in a run of one process"):
        Config(sampler="vllm")
