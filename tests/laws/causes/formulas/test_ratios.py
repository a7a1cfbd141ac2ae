"""Tokens that are dropped, or that alone have a gradient, are told by their place and by whether they count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.explained import explained

from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.mutants.mutant import LIKE, LIKE_GRPO, gain, gspo, gspo_weight, log_s, mean, ratios, size, token_mean


def end(mask: Any, last: bool) -> Any:
    """The first or the last token of every response."""
    return mask & (np.cumsum(mask, axis=1) == (mask.sum(axis=1, keepdims=True) if last else 1))


@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("kind", ["dropped", "kept if alone", "counted", "learns alone", "slot", "slot kept if alone"])
def test_the_token_and_what_happens_to_it_are_named(last: bool, kind: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        token = end(mask, last)
        if kind == "counted":
            d = np.where(token, 0.0, ratios(logp, old, mask))
            return mean(gain(d.sum(axis=1) / size(mask), a), mask)
        if kind == "learns alone":
            return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * token)
        kept = mask & ~token
        if kind == "kept if alone":
            kept |= mask & (mask.sum(axis=1, keepdims=True) == 1)
        if kind.startswith("slot"):
            kept = mask.copy()
            kept[:, -1 if last else 0] &= mask.shape[1] == 1 and "kept" in kind
        return gspo(logp, old, a, kept)

    name = "last" if last else "first"
    words = {
        "counted": f"the {name} token of every response is dropped, and still counted in its length",
        "learns alone": f"only the {name} token of a response has a gradient",
        "slot": f"the {name} slot of every row is dropped",
        "slot kept if alone": f"the {name} slot of every row is dropped",
    }
    assert explained(loss, LIKE) == words.get(kind, f"the {name} token of every response is dropped")


def test_one_ratio_for_all_tokens_is_named_where_each_should_have_its_own() -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        wide = np.repeat(log_s(logp, old, mask)[:, None], mask.shape[1], axis=1)
        return mean(token_mean(gain(wide, a[:, None]), mask), mask)

    assert explained(loss, LIKE_GRPO) == "all tokens of a response share one ratio, as in GSPO"
