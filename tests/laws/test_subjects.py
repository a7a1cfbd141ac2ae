"""Losses of strangers are called as they are written, recognised by their arguments, and judged by their own precision."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gspo_core import laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.names import FOUR, Names
from gspo_core.laws.kit.signature import ALIASES, ROLE, recognised
from gspo_core.laws.mutants import gspo
from gspo_core.laws.mutants.mutant import LIKE
from gspo_core.objectives.presets import PRESETS

FORMULA = [named("the value is the paper's"), named("the gradient is the paper's")]
PRECISE = [*FORMULA, named("a good response is made likelier, a bad one less likely"), named("a clipped unit has no gradient")]


def kept(loss: Any, checked: list[laws.Law] = FORMULA, **options: Any) -> laws.Report:
    """The report of a loss that must keep the laws."""
    report = laws.check(loss, LIKE, laws=checked, examples=15, **options)
    assert report.ok, str(report)
    assert report.kept, str(report)
    return report


def torch_gspo(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Eq. 5 in PyTorch."""
    length = mask.sum(-1)
    log_s = torch.where(mask, logp - old_logp, 0.0).sum(-1) / length.clamp(min=1)
    s = log_s.clamp(max=50.0).exp()
    gain = torch.minimum(s * advantage, s.clamp(0.8, 1.3) * advantage)
    return -torch.where(length > 0, gain, 0.0).sum() / (length > 0).sum().clamp(min=1)


def keyword_only(*, logits: Tensor, labels: Tensor, old_logps: Tensor, advantages: Tensor, completion_mask: Tensor) -> Any:
    """Logits in, a dict out."""
    logp = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    return {"loss": torch_gspo(logp, old_logps, advantages, completion_mask), "kl": 0.0}


def with_config(old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor, config: Any) -> Any:
    """As verl calls it."""
    assert config.clip_ratio == 0.2
    return torch_gspo(log_prob, old_log_prob, advantages, response_mask), {}


def with_denominator(logp: Any, old_logp: Any, advantages: Any, mask: Any, num_sequences: float) -> Any:
    """The number to divide by is required."""
    return gspo(logp, old_logp, advantages, mask, num_sequences)


def with_loss_attribute(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Any:
    """An object with the loss, as of a model."""
    return SimpleNamespace(loss=torch_gspo(logp, old_logp, advantage, mask), metrics={})


WAYS = {
    "logits, keyword-only, dict": keyword_only,
    "old first, config bound": functools.partial(with_config, config=SimpleNamespace(clip_ratio=0.2)),
    "required denominator": with_denominator,
    "attribute": with_loss_attribute,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_is_called_as_it_is_written(way: str) -> None:
    kept(WAYS[way])


@pytest.mark.slow
def test_compiled_and_jitted_losses_are_losses() -> None:
    kept(torch.compile(torch_gspo, backend="eager"))

    def plain(logp: jax.Array, old_logp: jax.Array, advantage: jax.Array, mask: jax.Array) -> jax.Array:
        d = jax.numpy.where(mask, logp - old_logp, 0.0)
        s = jax.numpy.exp(jax.numpy.minimum(d.sum(-1) / jax.numpy.maximum(mask.sum(-1), 1), 50.0))
        gain = jax.numpy.minimum(s * advantage, jax.numpy.clip(s, 0.8, 1.3) * advantage)
        return -jax.numpy.where(mask.any(-1), gain, 0.0).sum() / jax.numpy.maximum(mask.any(-1).sum(), 1)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        kept(jax.jit(plain), framework=laws.JAX)


@given(st.permutations(FOUR), st.data())
def test_any_order_of_known_names_is_recognised(order: list[str], data: st.DataObject) -> None:
    chosen = {role: data.draw(st.sampled_from(ALIASES[role].split())) for role in order}
    fn = eval(f"lambda {', '.join(chosen.values())}: 0")
    found = recognised(fn, Names())
    plain = list(order) == list(FOUR)
    assert {role: getattr(found, role) for role in FOUR} == (dict.fromkeys(FOUR) if plain else chosen)


def test_no_alias_has_two_roles() -> None:
    assert len(ROLE) == sum(len(aliases.split()) for aliases in ALIASES.values())


def test_names_that_say_nothing_stay_positional() -> None:
    assert recognised(lambda _a, _b, _c, _d: 0, Names()) == Names()
    assert recognised(lambda *_: 0, Names()) == Names()


def in_float32(logp: np.ndarray, old: np.ndarray, a: np.ndarray, mask: np.ndarray) -> np.float32:
    """Casts at the door, as trainers do."""
    return np.float32(gspo(logp.astype(np.float32), old.astype(np.float32), a.astype(np.float32), mask))


def float32_only(logp: np.ndarray, old: np.ndarray, a: np.ndarray, mask: np.ndarray) -> np.float32:
    """Accepts nothing else."""
    assert logp.dtype == np.float32
    return in_float32(logp, old, a, mask)


FLOAT32 = {
    "numpy": (in_float32, {}),
    "numpy, a Python number": (lambda *arrays: float(in_float32(*arrays)), {}),
    "numpy, float32 only": (float32_only, {"dtype": np.float32}),
    "torch": (lambda logp, old, a, mask: torch_gspo(logp.float(), old.float(), a.float(), mask), {}),
    "torch, a double": (lambda logp, old, a, mask: torch_gspo(logp.float(), old.float(), a.float(), mask).double(), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT32)
def test_an_honest_float32_loss_keeps_the_laws_with_the_tolerances_of_float32(name: str) -> None:
    loss, options = FLOAT32[name]
    assert "computes in float32" in str(kept(loss, PRECISE, **options))


def test_half_precision_is_not_excused() -> None:
    half = laws.check(
        lambda logp, old, a, mask: torch_gspo(logp.half(), old.half(), a.half(), mask).double(), LIKE, laws=FORMULA
    )
    assert not half.ok


def needs_a_mode(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, mode: str) -> Tensor:  # noqa: ARG001 (the signature is what is tested)
    """Nobody passes `mode`."""
    return torch_gspo(logp, old_logp, advantage, mask)


def fails_late(logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG001 (the signature is what is tested)
    """Gets far in PyTorch."""
    d = torch.where(mask, logp - old_logp, 0.0)
    raise ValueError(f"no group ids for {len(d)} rows")


def test_the_refusal_names_the_nearest_framework_first_and_what_is_missing() -> None:
    with pytest.raises(TypeError, match=r"arrays\n  torch: ValueError: no group ids for 2 rows\n"):
        laws.subject_of(fails_late)
    with pytest.raises(TypeError, match=r"bind mode with functools.partial"):
        laws.subject_of(needs_a_mode)


def sequence_sapo(logp: Tensor, old_logp: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """SAPO as TRL writes it, for one advantage per response: [N, T] would be broadcast over pairs of responses."""
    tau = torch.where(advantages > 0, 1.0, 1.05).double()[:, None]
    ratio = torch.where(mask, logp - old_logp, 0.0).clamp(max=50.0).exp()
    loss = -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages[:, None]
    return (torch.where(mask, loss, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).sum() / mask.any(-1).sum().clamp(min=1)


@pytest.mark.slow
def test_a_loss_for_one_advantage_per_response_is_not_judged_on_token_advantages() -> None:
    like = PRESETS["SAPO"]
    padding = named("numbers in the padding of token advantages do not change the loss")
    report = laws.check(sequence_sapo, like, laws=[*FORMULA, padding], examples=15)
    assert report.ok, str(report)
    assert padding not in {v.law for v in report.kept}
