"""Every option of Tunix's configurations: the loss honours it, the learner uses it, or it is refused by its name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import gspo_jax.trainers.tunix as adapter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.errors.places import origin, raises_of
from support.trainers.tunix_batches import config, packed, padded, registered, rows, saying_nothing, value_and_grad
from tunix.rl import algo_core, common, utils
from tunix.rl.agentic.agentic_grpo_learner import GRPOConfig as AgenticConfig
from tunix.rl.grpo.dapo_learner import DAPOConfig
from tunix.rl.grpo.drgrpo_learner import DrGRPOConfig
from tunix.rl.grpo.grpo_learner import GRPOConfig

from gspo_core import GSPO_TOKEN
from gspo_core.objectives import DR_GRPO, FixedLength

WIDE = GSPO_TOKEN.with_clip(0.2, 0.2)

OF_THE_LOSS = {"epsilon", "epsilon_high", "loss_agg_mode", "loss_algo", "beta", "kl_loss_mode", "kl_clamp_value", "sampler_is"}
"""Tested below, with `epsilon_c` and `temperature`, which are no fields."""
OF_THE_LEARNER = {
    *("algo_variant", "advantage_estimator", "policy_loss_fn", "reward_manager", "num_generations", "num_iterations"),
    *("dynamic_sampling", "overlong_buffer"),  # DAPO's, of rewards
    *("force_compute_kl", "sampler_is_threshold", "use_rollout_logps"),  # what the batch then has, the loss uses
    *("system_prompt", "max_concurrency", "off_policy_steps", "degenerate_group_masking"),
    *("max_response_length", "max_tokens_to_generate", "num_reflections", "overlong_filter", "filter_statuses"),
    *("max_tokens_per_turn", "max_model_len", "episode_timeout", "max_turns"),
}
"""Never read by a loss: they decide what is in a batch."""


def test_every_option_of_this_version_is_known() -> None:
    """A new one fails here: then it is honoured or refused."""
    kinds = (GRPOConfig, DAPOConfig, DrGRPOConfig, AgenticConfig)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert names - OF_THE_LEARNER - OF_THE_LOSS == set()
    assert names >= OF_THE_LOSS


REFUSED: dict[str, tuple[str, Any]] = {
    "epsilon: expected None, or what the objective has, 0.0003, got 0.2": ("GSPO", config(beta=0.0, loss_agg_mode=None)),
    "epsilon: expected None, or what the objective has, nothing else, got 0.2": ("CISPO", config(beta=0.0, loss_agg_mode=None)),
    "epsilon_high: expected None, or what the objective has, 0.2, got 0.28": ("BNPO", config(kind=DAPOConfig)),
    "loss_agg_mode: expected None, or what the objective has, 'sequence-mean-token-mean', got 'token-mean'": (
        "GSPO",
        saying_nothing(loss_agg_mode="token-mean"),
    ),
    "loss_agg_mode: expected None, or what the objective has, 'token-mean', got 'sequence-mean-token-mean'": (
        "DAPO",
        config(epsilon=None),
    ),
    "loss_algo: expected None, or what the objective has, 'grpo', got 'gspo-token'": (
        "GSPO",
        saying_nothing(loss_algo="gspo-token"),
    ),
    "temperature: expected 1.0 with num_iterations above 1": ("GSPO", saying_nothing(temperature=0.9)),
    "sampler_is: expected None where a batch has no weights, got 'token'": (
        "GSPO_TOKEN",
        saying_nothing(kind=AgenticConfig, sampler_is="token"),
    ),
    "kl_loss_mode: expected one of kl, mse_kl, low_var_kl, got 'k4'": ("GSPO", saying_nothing(kl_loss_mode="k4")),
}


def refusal(preset: str, options: Any) -> ValueError:
    """The error that the options are."""
    batch = rows(0)
    with pytest.raises(ValueError, match="expected") as found:
        value_and_grad(
            f"gspo_core_{preset.lower()}", batch.logp, padded(batch, ref_per_token_logps=jnp.asarray(batch.old)), options
        )
    return found.value


@pytest.mark.parametrize("words", REFUSED)
def test_what_an_objective_cannot_honour_is_refused_by_name(words: str) -> None:
    """GRPOConfig's own defaults are among them: Tunix's 0.2 is not the clip range of GSPO."""
    assert str(refusal(*REFUSED[words])).startswith(words)


def test_every_raise_statement_is_tested() -> None:
    """By the calls above, but for two: those of `sampler_is`, and of what is no objective, below."""
    seen = {origin(refusal(*case)) for case in REFUSED.values()}
    folder = Path(adapter.__file__).parent
    places = [place for path in sorted(folder.glob("*.py")) for place in raises_of(path)]
    left = [place for place in places if not any(place.holds(*at) for at in seen)]
    assert len(places) == 6
    assert len(left) == 2


def test_a_sampler_s_weights_of_tokens_want_a_ratio_of_tokens() -> None:
    """sampler_is="token" of the agentic learner: honoured by GSPO-token, whose weights multiply the advantage."""
    batch = rows(0)
    weights = np.where(batch.mask, np.random.default_rng(0).uniform(0.5, 2.0, batch.mask.shape), 5.0).astype(np.float32)
    example, options = padded(batch, sampler_is_weights=jnp.asarray(weights)), config(beta=0.0, loss_algo="gspo-token")
    theirs, _, their_grad = value_and_grad("grpo", batch.logp, example, options)
    ours, _, our_grad = value_and_grad(registered(WIDE), batch.logp, example, options)
    assert abs(ours - theirs) <= 1e-6
    assert np.abs(our_grad - their_grad).max() <= 1e-6
    with pytest.raises(ValueError, match=r"^sampler_is: expected None, since Sequence"):
        value_and_grad("gspo_core_gspo", batch.logp, example, saying_nothing())


def test_packs_without_the_weights_that_were_asked_for_are_refused() -> None:
    """Tunix's packing leaves them out: its own loss is then uncorrected, without a word."""
    batch = rows(0)
    prompts = {"prompt_ids": np.ones((4, 1), np.int32), "prompt_mask": np.ones((4, 1), np.int32)}
    weighted = padded(batch, sampler_is_weights=jnp.full(batch.mask.shape, 2.0)).replace(**prompts)
    ((pack,),) = utils.pack_sequences(iter([[jax.tree.map(np.asarray, weighted)]]), 32)
    assert getattr(pack, "sampler_is_weights", None) is None
    options = saying_nothing(kind=AgenticConfig, sampler_is="token")
    with pytest.raises(ValueError, match=r"^sampler_is: expected None where a batch has no weights, got 'token'"):
        value_and_grad("gspo_core_gspo_token", np.zeros(pack.completion_mask.shape, np.float32), pack, options)


@pytest.mark.parametrize("mode", ["kl", "mse_kl", "low_var_kl"])
@pytest.mark.parametrize("clamp", [None, 0.05])
def test_the_kl_term_is_tunix_own(mode: str, clamp: float | None) -> None:
    """beta, kl_loss_mode and kl_clamp_value: value, gradient and both logged numbers."""
    batch = rows(2)
    example = padded(batch, ref_per_token_logps=jnp.asarray(batch.reference))
    options = config(loss_algo="gspo-token", beta=0.5, kl_loss_mode=mode, kl_clamp_value=clamp)
    theirs, ours = (value_and_grad(name, batch.logp, example, options, log=True) for name in ("grpo", registered(WIDE)))
    assert abs(ours[0] - theirs[0]) <= 1e-6
    assert np.abs(ours[2] - theirs[2]).max() <= 1e-6
    for name in ("kl", "kl_loss"):
        assert abs(theirs[1][name]) > 1e-4
        assert abs(ours[1][name] - theirs[1][name]) <= 1e-6
    without = value_and_grad(registered(WIDE), batch.logp, example, config(loss_algo="gspo-token", beta=0.0))
    assert abs(without[0] - ours[0]) > 1e-4


def test_a_fixed_length_is_tunix_scale_by_the_width_of_its_rows() -> None:
    """DrGRPOConfig's default, sequence-mean-token-scale: the width is max_tokens_to_generate, and a pack has another one."""
    batch, options = rows(0), config(kind=DrGRPOConfig, beta=0.0)
    own = dataclasses.replace(DR_GRPO, reduction=FixedLength(batch.mask.shape[1]))
    name = registered(own)
    theirs, ours = (value_and_grad(x, batch.logp, padded(batch), options) for x in ("grpo", name))
    assert abs(ours[0] - theirs[0]) <= 1e-6
    assert np.abs(ours[2] - theirs[2]).max() <= 1e-6
    pack = packed(batch, ((0, 1, 2),), 16)
    for wrong, logp, given in (("gspo_core_dr_grpo", batch.logp, padded(batch)), (name, pack.logp, pack.example)):
        with pytest.raises(ValueError, match=r"^loss_agg_mode: "):
            value_and_grad(wrong, logp, given, options)


def test_temperature_and_packs_reach_tunix_s_log_probs() -> None:
    """Tunix's own function computes them. Without old ones, of num_iterations=1, any temperature will do."""
    batch, warm = rows(0), saying_nothing(temperature=0.7)
    pack = packed(batch, ((0, 1), (2,)), 12)
    for example, logp in ((padded(batch), batch.logp), (pack.example, pack.logp)):
        result = (jnp.asarray(logp), jnp.zeros((*logp.shape, 2)))
        split = mock.patch.object(algo_core.nnx, "split", return_value=("graph", "state"))
        run = mock.patch.object(common, "compute_per_token_logps", return_value=result)
        with split, run as called, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            adapter.tunix_loss(WIDE, None, example.replace(old_per_token_logps=None), warm, 0, 1)
        passed = called.call_args
        assert passed.args == ("graph", "state")
        assert passed.kwargs["temperature"] == 0.7
        for name in ("segment_ids", "segment_positions"):
            assert passed.kwargs[name] is getattr(example, name)
        assert passed.kwargs["prompt_tokens"] is example.prompt_ids
        assert passed.kwargs["completion_tokens"] is example.completion_ids
        assert not passed.kwargs["stop_gradient"]


def test_only_an_objective_is_registered() -> None:
    with pytest.raises(TypeError, match=r"^objective: expected an Objective such as GSPO, got str"):
        adapter.register("never", "gspo")  # type: ignore[arg-type]
