"""SkyRL's policy losses and ours in their place, on advantages that its trainer has divided."""

from __future__ import annotations

import ast
import dataclasses
import importlib.metadata
import logging
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from gspo_torch.trainers.skyrl import OF_OTHER_LOSSES, UTILS, register, skyrl_loss
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.paper import paper
from support.trainers.rows_in_torch import CUTS, LENGTHS, Rows, graded, in_parts, rows, same

from gspo_core import GSPO, GSPO_TOKEN
from gspo_core.objectives import CISPO, DAPO, DR_GRPO, PRESETS, FixedLength, SequenceMean, TokenMean
from integration.wild.definitions import definitions

HOME = "skyrl/backends/skyrl_train/utils/"
SCALE = "apply_loss_reduction_to_advantages_minibatch"
GIVEN: dict[str, Any] = {"torch": torch, **{name: getattr(typing, name) for name in ("List", "Optional", "Tuple")}}
GIVEN |= {"DictConfig": Any, "field": dataclasses.field}
GIVEN |= definitions("skyrl", HOME + "torch_utils.py", ["masked_mean", "safe_exp_delta"], GIVEN)
CORRECTIONS = ["off_policy_correction_enabled", "compute_tis_ratio", "compute_outlier_token_mask", "compute_token_mask"]
CORRECTIONS += ["compute_sequence_mask", "compute_off_policy_correction", "apply_off_policy_correction"]
GIVEN |= definitions("skyrl", HOME + "off_policy_correction_utils.py", CORRECTIONS, GIVEN)
SKYRL = definitions("skyrl", HOME + "ppo_utils.py", ["ppo_policy_loss", "gspo_policy_loss", "reduce_loss", SCALE], GIVEN)
"""SkyRL's own functions, from their text: the package does not import on Python 3.11."""
OFF: dict[str, Any] = {
    "tis_ratio_type": None,
    "token_tis_ratio_clip_high": 2.0,
    "sequence_tis_ratio_clip_high": 5.0,
    "sequence_mask_metric": None,
    "geo_mask_high": 1.01,
    "geo_mask_low": 0.99,
    "product_mask_high": 2.0,
    "product_mask_low": 0.5,
    "outlier_token_is_threshold_low": None,
    "outlier_token_is_threshold_high": None,
    "token_mask_is_threshold_low": None,
    "token_mask_is_threshold_high": None,
}


@pytest.fixture(autouse=True)
def skyrl_s_modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the adapter imports of SkyRL when it is called, and the logger that SkyRL imports."""
    registry: dict[str, Any] = {}
    ppo = SimpleNamespace(PolicyLossRegistry=SimpleNamespace(register=registry.__setitem__))
    monkeypatch.setitem(sys.modules, "loguru", SimpleNamespace(logger=logging.Logger(__name__, logging.ERROR)))
    monkeypatch.setitem(sys.modules, UTILS + "ppo_utils", ppo)
    monkeypatch.setitem(sys.modules, UTILS + "off_policy_correction_utils", SimpleNamespace(**GIVEN))
    return registry


def config(**options: Any) -> SimpleNamespace:
    """AlgorithmConfig's defaults, but for the options."""
    given_ = {"policy_loss_type": "regular", "loss_reduction": "token_mean", "eps_clip_low": 0.2, "eps_clip_high": 0.2}
    given_ |= {"clip_ratio_c": 3.0, "max_seq_len": None, "off_policy_correction": SimpleNamespace(**OFF), **options}
    return SimpleNamespace(**given_)


def divided(batch: Rows, options: Any) -> Rows:
    """The mini-batch after SkyRL's step that scales advantages."""
    scaled = SKYRL[SCALE](batch.advantages, batch.mask.double(), options.loss_reduction, len(batch.mask), options.max_seq_len)
    return batch._replace(advantages=scaled)


def in_skyrl(function: Any, options: Any, batch: Rows, cut: str = "whole", rollout: bool = False) -> tuple[float, Any]:
    """Value and gradient of a mini-batch: advantages divided, micro-batches added up."""

    def loss(part: Rows) -> Any:
        given_ = (part.logp, part.old, part.advantages, options, part.mask.double())
        return function(*given_, rollout_logprobs=part.sampler if rollout else None)[0]

    found = [graded(loss, part) for part in in_parts(cut, divided(batch, options))]
    gradient = np.zeros(batch.mask.shape)
    for chosen, (_, part) in zip(CUTS[cut], found, strict=True):
        gradient[list(chosen)] = part
    return sum(value for value, _ in found), gradient


@pytest.mark.parametrize("cut", CUTS)
@given(seed=st.integers(0, 1000))
def test_with_skyrl_s_options_it_is_skyrl_s_loss(cut: str, seed: int) -> None:
    """Its defaults, and gspo with each reduction that it has a sentence for; rows without a token count in both."""
    batch = rows(seed)
    cases = [(DAPO, "ppo_policy_loss", config())]
    cases += [(GSPO_TOKEN, "gspo_policy_loss", config(policy_loss_type="gspo", loss_reduction="sequence_mean"))]
    cases += [(GSPO, "gspo_policy_loss", config(policy_loss_type="gspo", loss_reduction="sequence_mean", eps_clip_low=0.03))]
    fixed = dataclasses.replace(GSPO_TOKEN, reduction=FixedLength(8))
    cases += [(fixed, "gspo_policy_loss", config(loss_reduction="seq_mean_token_sum_norm", max_seq_len=8))]
    for objective, name, options in cases:
        theirs, ours = (in_skyrl(x, options, batch, cut) for x in (SKYRL[name], skyrl_loss(objective)))
        assert same(theirs, ours, 1e-7), name


MEANS = {SequenceMean(): "sequence_mean", TokenMean(): "token_mean", FixedLength(1): "seq_mean_token_sum_norm"}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("preset", PRESETS)
def test_any_cut_of_a_mini_batch_is_the_paper(preset: str, cut: str) -> None:
    """Without an empty row, of which SkyRL's division knows nothing, the denominator is the paper's."""
    batch, objective = rows(5, tuple(n or 4 for n in LENGTHS)), PRESETS[preset]
    options = config(loss_reduction=MEANS.get(objective.reduction, "seq_mean_token_sum_norm"))
    options.max_seq_len = getattr(objective.reduction, "length", None)
    if hasattr(objective.surrogate, "low") and hasattr(objective.surrogate, "high"):
        options.eps_clip_low, options.eps_clip_high = objective.surrogate.low, objective.surrogate.high
    exact = paper(preset, batch.logp, batch.old, batch.advantages, batch.mask)
    assert same(in_skyrl(skyrl_loss(objective), options, batch, cut), exact, 1e-9 * (1 + abs(exact.value)))


@pytest.mark.parametrize(
    "on",
    [
        {"tis_ratio_type": "token"},
        {"tis_ratio_type": "sequence"},
        {"sequence_mask_metric": "geometric", "geo_mask_low": 0.8, "geo_mask_high": 1.2},
        {"token_mask_is_threshold_low": 0.8, "token_mask_is_threshold_high": 1.2},
        {"outlier_token_is_threshold_high": 1.5},
    ],
    ids=str,
)
def test_the_off_policy_correction_is_skyrl_s(on: dict[str, Any]) -> None:
    """Weights and masks of tokens and of sequences; what is masked is not counted out of log s, there and here."""
    batch = rows(3)
    options = config(loss_reduction="sequence_mean", off_policy_correction=SimpleNamespace(**{**OFF, **on}))
    theirs, ours = (in_skyrl(x, options, batch, rollout=True) for x in (SKYRL["gspo_policy_loss"], skyrl_loss(GSPO_TOKEN)))
    without = in_skyrl(skyrl_loss(GSPO_TOKEN), config(loss_reduction="sequence_mean"), batch)
    assert same(theirs, ours)
    assert not same(without, ours)


def test_what_is_logged() -> None:
    """SkyRL's clip_ratio, and ours beside it."""
    options, batch = config(loss_reduction="sequence_mean"), divided(rows(1), config(loss_reduction="sequence_mean"))
    given_ = (*batch[:2], batch.advantages, options, batch.mask.double())
    theirs, ours = (x(*given_)[1] for x in (SKYRL["gspo_policy_loss"], skyrl_loss(GSPO_TOKEN)))
    assert ours["clip_ratio"] == pytest.approx(theirs["clip_ratio"], abs=1e-6)
    assert {"gspo_clip_active", "gspo_log_s_rms"} <= set(ours)


REFUSED = {
    "loss_reduction: expected sequence_mean": (GSPO, config()),
    "loss_reduction: expected token_mean": (DAPO, config(loss_reduction="token_mean_legacy")),
    "max_seq_len: expected 3000": (DR_GRPO, config(loss_reduction="seq_mean_token_sum_norm", max_seq_len=8)),
    "clip_ratio_c: expected its default 3.0": (DAPO, config(clip_ratio_c=4.0)),
    "eps_clip_low, eps_clip_high: expected the default 0.2": (CISPO, config(eps_clip_low=0.1)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_options_that_contradict_the_objective_are_refused(words: str) -> None:
    objective, options = REFUSED[words]
    batch = rows(0)
    with pytest.raises(ValueError, match=words):
        skyrl_loss(objective)(*batch[:2], batch.advantages, options, batch.mask.double())


GROUPS = {
    "sapo": "SAPOConfig",
    "clip_cov": "ClipCovConfig",
    "kl_cov": "KLCovConfig",
    "cispo": "CISPOConfig",
    "dppo": "DPPOConfig",
}
"""SkyRL's classes of the options that only a loss of its own reads."""
READ = {
    "policy_loss_type",
    "loss_reduction",
    "eps_clip_low",
    "eps_clip_high",
    "clip_ratio_c",
    "max_seq_len",
    "off_policy_correction",
}
"""By our loss; use_tis and tis_imp_ratio_cap become off_policy_correction before."""
BY_SKYRL = """
advantage_estimator kl_ctrl kl_estimator_type use_kl_in_reward use_kl_loss kl_loss_coef use_entropy_loss entropy_loss_coef
temperature advantage_batch_normalize value_head_prefix grpo_norm_by_std zero_variance_filter zero_variance_filter_tol lambd
gamma tis_imp_ratio_cap use_tis value_clip dynamic_sampling
"""
"""Before the loss, or terms that SkyRL adds to it."""


def of_skyrl(name: str) -> Any:
    """A class of its options, as the dataclass that it is."""
    space = {"BaseConfig": object, "Optional": typing.Optional, "field": dataclasses.field}
    return dataclasses.dataclass(definitions("skyrl", "skyrl/train/config/config.py", [name], space)[name])


def test_every_option_of_this_version_is_known() -> None:
    source = Path(str(importlib.metadata.distribution("skyrl").locate_file("skyrl/train/config/config.py"))).read_text()
    (kind,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "AlgorithmConfig")
    names = {node.target.id for node in kind.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    assert names == {*READ, *GROUPS, *BY_SKYRL.split()}
    assert set(OF_OTHER_LOSSES) == set(GROUPS)


@pytest.mark.parametrize("group", GROUPS)
def test_an_option_of_another_loss_is_refused(group: str) -> None:
    kind, batch = of_skyrl(GROUPS[group]), rows(0)
    both = (*batch[:2], batch.advantages)
    at_defaults = config(loss_reduction="sequence_mean", **{group: kind()})
    assert torch.isfinite(skyrl_loss(GSPO)(*both, at_defaults, batch.mask.double())[0])
    for option in dataclasses.fields(kind):
        other = "binary_kl" if option.name == "dppo_type" else 0.125
        changed = config(loss_reduction="sequence_mean", **{group: kind(**{option.name: other})})
        with pytest.raises(ValueError, match=rf"^{group}\.{option.name}: expected its default"):
            skyrl_loss(GSPO)(*both, changed, batch.mask.double())


def test_it_is_registered_by_its_name(skyrl_s_modules: dict[str, Any]) -> None:
    register("gspo_core_gspo", GSPO)
    options = config(loss_reduction="sequence_mean")
    one, two = (in_skyrl(x, options, rows(0)) for x in (skyrl_s_modules["gspo_core_gspo"], skyrl_loss(GSPO)))
    assert same(one, two)


@pytest.mark.parametrize("on", [{"tis_ratio_type": "token"}, {"outlier_token_is_threshold_high": 1.5}], ids=str)
def test_a_correction_without_the_sampler_s_log_probs_is_refused(on: dict[str, Any]) -> None:
    """SkyRL's own losses go on without it. Where nothing is corrected, nothing is needed."""
    batch = rows(3)
    options = config(loss_reduction="sequence_mean", off_policy_correction=SimpleNamespace(**{**OFF, **on}))
    with pytest.raises(ValueError, match=r"^rollout_logprobs: expected the sampler's, since off_policy_correction is on"):
        in_skyrl(skyrl_loss(GSPO_TOKEN), options, batch)


def test_a_loss_goes_to_workers_as_skyrl_sends_it() -> None:
    """By cloudpickle, from the process that registers it."""
    options, loss = config(loss_reduction="sequence_mean"), skyrl_loss(GSPO)
    sent = cloudpickle.loads(cloudpickle.dumps(loss))
    assert same(in_skyrl(sent, options, rows(0)), in_skyrl(loss, options, rows(0)))


def test_what_is_no_objective_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^objective: expected an Objective such as gspo_core.GSPO, got 'GSPO'"):
        register("gspo_core_gspo", "GSPO")


@pytest.mark.parametrize("on", [{}, {"tis_ratio_type": "token"}], ids=str)
def test_a_batch_without_a_token_logs_what_others_log(on: dict[str, Any]) -> None:
    """SkyRL reduces one number after the other over ranks: one that lacks a name lets the others wait for ever."""
    batch, options = rows(2), config(loss_reduction="sequence_mean", off_policy_correction=SimpleNamespace(**{**OFF, **on}))
    names = []
    for mask in (batch.mask, torch.zeros_like(batch.mask)):
        given_ = (*batch[:2], batch.advantages, options, mask.double(), batch.sampler)
        names.append(list(skyrl_loss(GSPO_TOKEN)(*given_)[1]))
    assert names[0] == names[1]
    assert "gspo_ess" in names[0]


@pytest.mark.parametrize("side", ["low", "high"])
def test_half_of_a_token_mask_is_refused(side: str) -> None:
    """SkyRL masks tokens if both bounds are given, and says nothing if one is."""
    half = SimpleNamespace(**{**OFF, f"token_mask_is_threshold_{side}": 1.0})
    batch, options = rows(3), config(loss_reduction="sequence_mean", off_policy_correction=half)
    with pytest.raises(ValueError, match=r"^token_mask_is_threshold_low, _high: expected both or none, since SkyRL ignores"):
        in_skyrl(skyrl_loss(GSPO_TOKEN), options, batch, rollout=True)
