"""gspo_torch.policy_loss refuses what the core refuses, in the core's words."""

from __future__ import annotations

import gspo_torch
import pytest
import torch
from support.differentiable import inputs

from gspo_core import GSPO, Padded


@pytest.mark.parametrize("name", ["logp", "old_logp", "advantage"])
def test_errors_are_the_cores(name: str) -> None:
    """Wrong kinds are named by the wrapper as by the core."""
    batch = inputs()
    good = {"logp": batch.logp, "old_logp": batch.old, "advantage": batch.advantage}
    for wrong, sentence in ((batch.logp[0], f"^{name}: expected "), ([1.0], rf"^{name}: expected an array, got list")):
        with pytest.raises((TypeError, ValueError), match=sentence):
            gspo_torch.policy_loss(GSPO, **{**good, name: wrong}, layout=Padded(batch.mask))


def test_a_bare_mask_is_no_layout() -> None:
    batch = inputs()
    with pytest.raises(TypeError, match=r"^layout: expected a layout such as Padded\(mask\), got Tensor"):
        gspo_torch.policy_loss(GSPO, batch.logp, batch.old, batch.advantage, batch.mask)


@pytest.mark.parametrize("name", ["old_logp", "advantage"])
def test_a_numpy_array_among_tensors_is_refused_by_name(name: str) -> None:
    batch = inputs()
    good = {"logp": batch.logp, "old_logp": batch.old, "advantage": batch.advantage}
    with pytest.raises(TypeError, match=rf"^{name}: expected an array of one library with logp .*, got numpy.ndarray"):
        gspo_torch.policy_loss(GSPO, **{**good, name: good[name].numpy()}, layout=Padded(batch.mask))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["logp", "old_logp"])
def test_low_precision_log_probs_are_refused(name: str, dtype: torch.dtype) -> None:
    batch = inputs()
    good = {"logp": batch.logp, "old_logp": batch.old}
    with pytest.raises(TypeError, match=rf"^{name}: expected float32 or float64, .*allow_low_precision=True"):
        gspo_torch.policy_loss(
            GSPO, **{**good, name: good[name].to(dtype)}, advantage=batch.advantage, layout=Padded(batch.mask)
        )


def test_old_log_probs_and_on_policy_exclude_each_other() -> None:
    batch = inputs()
    for old, on_policy in ((None, False), (batch.old, True)):
        with pytest.raises(ValueError, match=r"^old_logp: "):
            gspo_torch.policy_loss(GSPO, batch.logp, old, batch.advantage, Padded(batch.mask), on_policy=on_policy)
