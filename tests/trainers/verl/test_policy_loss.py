"""Our objectives behind verl's registry: through its own ppo_loss, against its own losses, and against the core on NumPy."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gspo_torch.trainers.verl import OF_OTHER_LOSSES, OTHERS, register
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

import gspo_core
from gspo_core import Padded, PerToken, objectives
from gspo_core.objectives import GSPO, GSPO_TOKEN, Objective

LENGTHS = np.array([3, 1, 5, 2, 4, 6])
PRESETS = list(objectives.PRESETS)
NORM = {"loss_agg_mode": "seq-mean-token-sum-norm", "clip_ratio_low": 0.2, "clip_ratio_high": 0.2}
PAPER = {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4, "loss_agg_mode": "seq-mean-token-mean"}


def config(mode: str, **options: Any) -> ActorConfig:
    """Of an actor."""
    named = {"strategy": "fsdp", "rollout_n": 1, "ppo_micro_batch_size_per_gpu": 1, **options}
    return ActorConfig(**{"policy_loss": PolicyLossConfig(loss_mode=mode), **named})


def batch(spread: float = 0.3) -> dict[str, torch.Tensor]:
    """Six responses in float64, off policy."""
    random = np.random.default_rng(3)
    shape = (len(LENGTHS), LENGTHS.max())
    old = -1 - random.random(shape)
    mask = np.arange(shape[1]) < LENGTHS[:, None]
    rows = {"old": old, "logp": old + spread * random.normal(size=shape), "advantage": random.normal(size=shape[:1])}
    return {**{name: torch.tensor(x) for name, x in rows.items()}, "mask": torch.tensor(mask)}


def through_verl(mode: str, rows: dict[str, torch.Tensor], weights: torch.Tensor | None = None, **options: Any) -> Any:
    """(loss, ∂loss/∂logp, metrics) of verl's ppo_loss, in three micro-batches on each of two ranks' shares."""
    logp = rows["logp"].clone().requires_grad_(True)
    total, metrics = torch.zeros((), dtype=torch.float64), []
    ranks = [[0, 1, 2], [3, 4, 5]]
    for rank in ranks:
        for row in rank:
            loss, found = ppo_loss(config(mode, **options), *nested(rows, logp, [row], weights))
            total = total + loss / len(ranks)  # FSDP averages the gradients of ranks
            metrics.append(found)
    total.backward()
    return total.detach(), logp.grad, metrics


def nested(rows: dict[str, torch.Tensor], logp: torch.Tensor, chosen: list[int], weights: torch.Tensor | None) -> Any:
    """A micro-batch as verl's engines hold it: jagged, log-probs of prompt and response shifted by one."""
    lengths = [int(LENGTHS[row]) for row in chosen]
    ids = [torch.zeros(length, dtype=torch.int64) for length in lengths]
    pairs, zero = list(zip(chosen, lengths, strict=True)), logp.new_zeros(1)
    scored = [torch.cat([zero, logp[row, :length], zero]) for row, length in pairs]
    jagged = {
        "prompts": [torch.zeros(2, dtype=torch.int64) for _ in chosen],
        "responses": ids,
        "response_mask": [torch.ones(length) for length in lengths],
        "old_log_probs": [rows["old"][row, :length] for row, length in pairs],
        "advantages": [rows["advantage"][row].expand(length) for row, length in pairs],
    }
    if weights is not None:
        jagged["rollout_is_weights"] = [weights[row].expand(length) for row, length in pairs]
    data = TensorDict(
        {name: torch.nested.as_nested_tensor(x, layout=torch.jagged) for name, x in jagged.items()}, [len(chosen)]
    )
    shared = {"dp_size": 2, "batch_num_tokens": int(LENGTHS.sum()), "global_batch_size": len(LENGTHS)}
    for name, value in shared.items():
        tu.assign_non_tensor(data, **{name: value})
    return {"log_probs": torch.nested.as_nested_tensor(scored, layout=torch.jagged)}, data


def paper(objective: Objective, rows: dict[str, torch.Tensor], weights: Any = 1.0) -> gspo_core.Loss:
    """The core's loss of the whole batch, on NumPy."""
    arrays = {name: x.numpy() for name, x in rows.items()}
    advantage = arrays["advantage"] * np.asarray(weights)
    if objective.ratio.per_token:
        advantage = PerToken(np.broadcast_to(advantage[:, None], arrays["mask"].shape).copy())
    return gspo_core.policy_loss(objective, arrays["logp"], arrays["old"], advantage, Padded(arrays["mask"]))


def mode_of(objective: Objective) -> str:
    """What a user has to set."""
    if isinstance(objective.reduction, objectives.TokenMean):
        return "token-mean"
    return "seq-mean-token-sum-norm" if isinstance(objective.reduction, objectives.FixedLength) else "seq-mean-token-mean"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_through_verls_own_loss(name: str) -> None:
    objective, rows = getattr(objectives, name), batch()
    surrogate = objective.surrogate
    both = {"clip_ratio_low": surrogate.low, "clip_ratio_high": surrogate.high} if hasattr(surrogate, "high") else {}
    value, grad, metrics = through_verl(f"gspo_core_{name.lower()}", rows, loss_agg_mode=mode_of(objective), **both)
    expected = paper(objective, rows)
    np.testing.assert_allclose(value, expected.value, rtol=1e-12)
    np.testing.assert_allclose(grad, expected.logp_grad, rtol=1e-10, atol=1e-14)
    assert np.abs(expected.logp_grad).max() > 1e-5
    assert {"actor/pg_clipfrac", "actor/ppo_kl", "gspo/log_s_rms"} <= set(metrics[0])


@pytest.mark.parametrize(
    ("mine", "theirs", "options"),
    [
        ("gspo_core_gspo", "gspo", PAPER),
        ("gspo_core_bnpo", "vanilla", {"loss_agg_mode": "token-mean", "clip_ratio_c": 1e9}),
        ("gspo_core_sapo", "sapo", {"loss_agg_mode": "seq-mean-token-mean"}),
    ],
)
def test_what_verl_computes(mine: str, theirs: str, options: dict[str, Any]) -> None:
    rows = batch()
    ours = {k: v for k, v in options.items() if k != "clip_ratio_c"}
    value, grad, _ = through_verl(mine, rows, **ours)
    expected, its_grad, _ = through_verl(theirs, rows, **options)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, its_grad, rtol=1e-6, atol=1e-9)


def test_verls_default_gspo_is_another_loss() -> None:
    """It averages over tokens: docs/in-your-trainer.md says what to set."""
    rows = batch()
    default, _, _ = through_verl("gspo", rows)
    assert abs(float(default) - float(paper(GSPO.with_clip(0.2, 0.2), rows).value)) > 0.01


def test_weights_of_another_engine() -> None:
    rows, weights = batch(), torch.tensor([0.5, 1.5, 1.0, 0.0, 2.0, 0.8], dtype=torch.float64)
    value, grad, _ = through_verl("gspo_core_gspo", rows, weights, **PAPER)
    expected = paper(GSPO, rows, weights)
    np.testing.assert_allclose(value, expected.value, rtol=1e-12)
    np.testing.assert_allclose(grad, expected.logp_grad, rtol=1e-10, atol=1e-14)


def called(mode: str, rows: dict[str, torch.Tensor], advantages: torch.Tensor, **options: Any) -> Any:
    """The registered function, outside of any engine: the batch is whole."""
    actor = config(mode, **{**PAPER, **options})
    return get_policy_loss_fn(mode)(rows["old"], rows["logp"], advantages, rows["mask"], actor.loss_agg_mode, actor)


def test_gmpo_is_verls_geo_mean_on_a_batch_that_is_not_cut() -> None:
    """Its geo_mean takes each micro-batch's own mean, and they are added up."""
    rows, narrow = batch(), {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}
    advantages = rows["advantage"][:, None].expand(rows["mask"].shape)
    value, _ = called("gspo_core_gmpo", rows, advantages, **narrow)
    expected, _ = called("geo_mean", rows, advantages, clip_ratio_low=0.4, clip_ratio_high=0.4)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    whole, _, _ = through_verl("geo_mean", rows, clip_ratio_low=0.4, clip_ratio_high=0.4)
    np.testing.assert_allclose(whole, 3 * value, rtol=1e-6)


def test_token_advantages() -> None:
    rows = batch()
    advantages = rows["advantage"][:, None] * torch.linspace(0.5, 1.5, rows["mask"].shape[1], dtype=torch.float64)
    value, _ = called("gspo_core_gspo_token", rows, advantages)
    arrays = [rows[name].numpy() for name in ("logp", "old")]
    expected = gspo_core.policy_loss(GSPO_TOKEN, *arrays, PerToken(advantages.numpy()), Padded(rows["mask"].numpy()))
    np.testing.assert_allclose(value, expected.value, rtol=1e-12)
    with pytest.raises(
        ValueError, match=r"^advantages: expected one number per response, since .* take an objective with token"
    ):
        called("gspo_core_gspo", rows, advantages)


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("gspo_core_gspo", {"loss_agg_mode": "token-mean"}, "loss_agg_mode: expected 'seq-mean-token-mean'"),
        ("gspo_core_gspo", {"clip_ratio": 3e-4}, "clip_ratio: expected its default 0.2"),
        ("gspo_core_gspo", {"clip_ratio_c": 2.0}, "clip_ratio_c: expected its default 3.0"),
        ("gspo_core_gspo", {"tau_pos": 2.0}, "tau_pos: expected its default"),
        ("gspo_core_gspo", {"loss_scale_factor": 7}, "loss_scale_factor: expected None with"),
        ("gspo_core_dr_grpo", {"loss_scale_factor": 7, **NORM}, "loss_scale_factor: expected 3000 with"),
        ("gspo_core_gspo", {"policy_loss": PolicyLossConfig("gspo_core_gspo", clip_cov_lb=2.0)}, "clip_cov_lb: expected its"),
        ("gspo_core_gspo", {"policy_loss": PolicyLossConfig("gspo_core_gspo", dro_beta=2.0)}, "dro_beta: expected its default"),
        ("gspo_core_sapo", {}, "clip_ratio_low, clip_ratio_high: expected the default 0.2, since"),
    ],
)
def test_an_option_without_an_effect_is_refused(mode: str, options: dict[str, Any], message: str) -> None:
    rows = batch()
    with pytest.raises(ValueError, match=f"^{message}"):
        called(mode, rows, rows["advantage"][:, None].expand(rows["mask"].shape), **options)


READ = {"loss_agg_mode", "loss_scale_factor", "clip_ratio_low", "clip_ratio_high", "global_batch_info", "policy_loss"}
"""By our loss."""
BY_VERL = """
strategy ppo_mini_batch_size ppo_micro_batch_size ppo_micro_batch_size_per_gpu ppo_infer_micro_batch_size_per_gpu
use_dynamic_bsz ppo_max_token_len_per_gpu ppo_infer_max_token_len_per_gpu freeze_vision_tower entropy_coeff calculate_entropy
calculate_sum_pi_squared use_kl_loss use_prefix_grouper use_torch_compile kl_loss_coef kl_loss_type ppo_epochs shuffle
data_loader_seed checkpoint optim use_fused_kernels profiler engine rollout_n model_config qat
"""
"""Before the loss, or terms that verl adds to it: entropy and KL."""


def test_every_option_of_this_version_is_known() -> None:
    actor, policy = ({field.name for field in dataclasses.fields(kind)} for kind in (ActorConfig, PolicyLossConfig))
    actor, policy = ({name for name in names if name[0] != "_"} for names in (actor, policy))
    assert actor == {*READ, *OTHERS, *BY_VERL.split()}
    assert policy == {*OF_OTHER_LOSSES, "loss_mode", "rollout_correction"}
    defaults = config("gspo")
    assert {name: getattr(defaults, name) for name in OTHERS} == OTHERS
    assert {name: getattr(defaults.policy_loss, name) for name in OF_OTHER_LOSSES} == OF_OTHER_LOSSES


def test_an_objective_of_your_own() -> None:
    register("mine", GSPO.with_clip(0.1, 0.1))
    rows = batch()
    value, _, _ = through_verl("mine", rows, **{**PAPER, "clip_ratio_low": 0.1, "clip_ratio_high": 0.2})
    np.testing.assert_allclose(value, paper(GSPO.with_clip(0.1, 0.2), rows).value, rtol=1e-12)
    POLICY_LOSS_REGISTRY.pop("mine")


def test_verl_finds_the_presets_by_itself() -> None:
    """By the entry point of the installed package, without a variable."""
    code = "import verl.trainer.ppo.core_algos as c, json; print(json.dumps(sorted(c.POLICY_LOSS_REGISTRY)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {f"gspo_core_{name.lower()}" for name in PRESETS} <= set(json.loads(done.stdout.splitlines()[-1]))


def test_the_dry_run_of_verls_command() -> None:
    options = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.actor.policy_loss.loss_mode=gspo_core_gspo"]
    options += [f"actor_rollout_ref.actor.{name}={value}" for name, value in PAPER.items()]
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *options, "actor_rollout_ref.rollout.n=8", "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "loss_mode: gspo_core_gspo" in done.stdout
    assert "clip_ratio_high: 0.0004" in done.stdout
