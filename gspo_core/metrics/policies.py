"""Mergeable statistics of the policy itself: its entropy, and its divergence from a reference."""

from __future__ import annotations

from typing import Any

from gspo_core._lib.array import at_least_float32, detached, is_real, namespace, shape_of
from gspo_core._lib.units import count_tokens
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.kl import K1, K3, Capped
from gspo_core.layouts.prepared import prepared
from gspo_core.types import Array, Layout

from .ledger import Entries, Metrics, ledger


def entropy_metrics(entropy: Array, layout: Layout) -> Metrics:
    """The mean entropy per token, (1/Σ_i |y_i|) Σ_it H_it.

    Args:
        entropy: token array, real numbers in nats: `LinearLoss.entropy` with `return_entropy=True`, or that of `token_scores`.
        layout: where the policy's tokens stand. Masked slots are inert.

    Returns: `Metrics` in which only this is counted; `merge` it with those of the batch. On a sharded layout as in
    `batch_metrics`.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import Padded, summary
    >>> summary(entropy_metrics(np.array([[0.5, 1.0], [0.0, np.nan]]), Padded(np.array([[True, True], [True, False]]))))
    {'entropy_per_token': 0.5}
    """
    check_layout(layout)
    xp = namespace(entropy=entropy, layout=layout.valid)
    if not is_real(xp, entropy):
        raise TypeError(f"entropy: expected real floating-point numbers, got dtype {entropy.dtype}")
    if shape_of(entropy) != layout.shape:
        raise ValueError(f"entropy: expected the layout's shape {list(layout.shape)}, got {list(shape_of(entropy))}")
    entropy = at_least_float32(xp, detached(entropy))
    layout = prepared(layout, entropy)
    sums = {"entropy": xp.sum(layout.sum(layout.select(entropy)))}
    return ledger(xp, Entries({"entropy.tokens": xp.sum(layout.lengths())}, sums), entropy)


def reference_metrics(
    logp: Array, ref_logp: Array, layout: Layout, *, cap: float | None = None, allow_low_precision: bool = False
) -> Metrics:
    """The divergence from a reference policy per token: means of k1 = −x and k3 = eˣ − 1 − x, with x = log π_ref − log π.

    Estimates of KL(π‖π_ref) of the next token on samples of π; k3 is continued linearly beyond x = 50.

    Args:
        logp: token array, log-probs of the sampled tokens under the current policy; nats.
        ref_logp: token array, the same under the reference policy.
        layout: where the policy's tokens stand. Masked slots of every input are inert.
        cap: x is bounded to ±cap, as by `Capped`, and counted where it was beyond. None: no bound.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: `Metrics` in which only this is counted; `merge` it with those of the batch. On a sharded layout as in
    `batch_metrics`.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape or cap, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import Padded, summary
    >>> ref = np.array([[-1.0, -9.0]])
    >>> numbers = summary(reference_metrics(ref * 0 - 1.0, ref, Padded(ref < 0), cap=2.0))
    >>> numbers["reference_kl_k1_per_token"], round(numbers["reference_kl_k3_per_token"], 4), numbers["reference_kl_capped"]
    (1.0, 0.5677, 0.5)
    """
    estimators: list[Any] = [K1(), K3()] if cap is None else [Capped(K1(), cap), Capped(K3(), cap)]
    check_layout(layout)
    xp = namespace(logp=logp, ref_logp=ref_logp, layout=layout.valid)
    now, ref = log_probs(xp, layout, allow_low_precision, logp=logp, ref_logp=ref_logp)
    layout, x = prepared(layout, now), ref - now
    counts = {"reference.tokens": xp.sum(layout.lengths())}
    if cap is not None:
        counts["reference.capped"] = xp.sum(count_tokens(layout, estimators[0].acts(xp, x), xp.int32))
    k1, k3 = (xp.sum(layout.sum(layout.select(k(xp, x, xp.zeros_like(x)).value))) for k in estimators)
    return ledger(xp, Entries(counts, {"reference.k1": k1, "reference.k3": k3}), x)
