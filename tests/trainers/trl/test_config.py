"""Every option of TRL is honoured by TRL itself, honoured here, or refused by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from gspo_torch.trainers.trl import GSPOConfig, GSPOTrainer
from gspo_torch.trainers.trl.config import REFUSED
from transformers import TrainingArguments
from trl import GRPOConfig

from gspo_core.advantages import Centred
from gspo_core.kl import K3, TokenKL
from gspo_core.mismatch import GEO_RS, MIS, TIS, Correction, Mask, ProductWeight, TokenWeight, Truncate
from gspo_core.objectives import GRPO, GSPO

HERE = {"beta", "use_bias_correction_kl", "entropy_coef", "router_aux_loss_coef", "temperature", "num_iterations"}
"""Honoured by our loss: test_same_as_trl.py, test_models.py."""
HERE |= {"steps_per_generation", "generation_batch_size", "mask_truncated_completions", "scale_rewards"}
HERE |= {"multi_objective_aggregation", "use_vllm", "cast_lm_head_to_fp32", "pad_to_multiple_of"}
HERE |= {f"vllm_importance_sampling_{name}" for name in ("correction", "mode", "clip_min", "clip_max", "cap")}
ALSO_REFUSED = {"use_adaptive_entropy"}
"""With a value of its own."""
BY_TRL = """
learning_rate model_init_kwargs trust_remote_code disable_dropout remove_unused_columns num_generations
num_generations_eval max_completion_length shuffle_dataset top_p top_k min_p generation_kwargs chat_template_kwargs
repetition_penalty cache_implementation vllm_mode vllm_model_impl vllm_enable_sleep_mode
vllm_structured_outputs_regex vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout
vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size reward_weights
sync_ref_model ref_model_mixup_alpha ref_model_sync_steps ds3_gather_for_generation max_tool_calling_iterations
log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo
use_transformers_continuous_batching transformers_continuous_batching_config use_transformers_paged
"""
"""Sampling, rewards, logs, the reference model: before or after the loss."""


def config(**options: Any) -> GSPOConfig:
    """On a CPU."""
    return GSPOConfig("unused", use_cpu=True, bf16=False, report_to=[], num_generations=2, **options)


def test_every_option_of_this_version_is_known() -> None:
    known = HERE | ALSO_REFUSED | set(REFUSED) | set(BY_TRL.split())
    own = {field.name for field in dataclasses.fields(GRPOConfig)} - {
        field.name for field in dataclasses.fields(TrainingArguments)
    }
    assert own - known == set(), "an option of TRL that nobody has thought about"
    assert {name for name in known if name not in {field.name for field in dataclasses.fields(GRPOConfig)}} == set()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_option_without_an_effect_is_refused(name: str) -> None:
    default = getattr(GRPOConfig("unused", use_cpu=True, bf16=False, num_generations=2), name)
    for value in (default, 0.1):
        if value is not None:
            with pytest.raises(ValueError, match=f"^{name}: expected no value, got "):
                config(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy: expected False"),
        ({"gradient_accumulation_steps": 3, "steps_per_generation": 4}, "gradient_accumulation_steps: expected a divisor"),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 2}, "gradient_accumulation_steps: expected a divisor"),
        ({"budget_bytes": -1}, "budget_bytes: expected a whole number"),
        ({"normaliser": Centred(), "scale_rewards": "batch"}, "scale_rewards: expected 'group' with a normaliser"),
        ({"sampler_correction": MIS}, "sampler_correction: expected None without use_vllm"),
        (
            {"use_vllm": True, "vllm_importance_sampling_mode": "token_mask"},
            "vllm_importance_sampling_mode: expected a weight per",
        ),
        ({"use_vllm": True, "sampler_correction": TIS}, "sampler_correction: expected a weight per sequence"),
        (
            {"use_vllm": True, "vllm_importance_sampling_mode": "sequence_truncate", "vllm_importance_sampling_clip_min": 0.5},
            "vllm_importance_sampling_clip_min: expected None",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        config(**options)


def test_an_objective_is_a_value() -> None:
    with pytest.raises(TypeError, match=r"^objective: expected an Objective such as GSPO, got str"):
        config(objective="GSPO")
    with pytest.raises(TypeError, match=r"^args: expected a GSPOConfig, got GRPOConfig"):
        GSPOTrainer("unused", lambda **_: [], GRPOConfig("unused", use_cpu=True, bf16=False, num_generations=2))


def test_the_estimator_of_the_penalty() -> None:
    assert config().kl is None
    assert config(beta=0.1).kl == TokenKL()
    assert config(beta=0.1, use_bias_correction_kl=False).kl == K3()
    assert config(beta=0.1, kl_estimator=K3()).kl == K3()


def test_the_modes_of_trl_are_corrections_of_ours() -> None:
    assert config().correction is None
    assert config(use_vllm=True, vllm_importance_sampling_correction=False).correction is None
    token = {"use_vllm": True, "objective": GRPO, "vllm_importance_sampling_clip_max": 4.0}
    assert config(**token, vllm_importance_sampling_mode="token_truncate").correction == Correction(
        TokenWeight(), Truncate(4.0)
    )
    masked = config(use_vllm=True, vllm_importance_sampling_mode="sequence_mask", vllm_importance_sampling_clip_min=0.5)
    assert masked.correction == Correction(ProductWeight(), Mask(0.5, 3.0, drop=False))
    assert config(use_vllm=True, sampler_correction=GEO_RS).correction == GEO_RS


def test_the_log_of_the_options_can_be_written(tmp_path: Path) -> None:
    """TensorBoard's callback writes them as JSON."""
    text = config(objective=GSPO.with_clip(0.1, 0.2), normaliser=Centred()).to_json_string()
    assert "Clip(low=0.1, high=0.2)" in text
    (tmp_path / "options.json").write_text(text)
