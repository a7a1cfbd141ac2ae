"""linear_policy_loss refuses wrong arguments by name, before it does any work."""

from __future__ import annotations

from typing import Any

import gspo_torch
import pytest
import torch
from gspo_torch import KLTerm, VocabularyShard

from gspo_core import GSPO, GSPO_TOKEN, Packed, Padded, PerToken
from gspo_core.kl import K3

NUM, LENGTH, WIDTH, VOCABULARY = 2, 3, 4, 7
ZEROS = torch.zeros(NUM, LENGTH)
GOOD: dict[str, Any] = {
    "objective": GSPO,
    "hidden": torch.zeros(NUM, LENGTH, WIDTH),
    "lm_head": torch.zeros(VOCABULARY, WIDTH),
    "tokens": torch.zeros(NUM, LENGTH, dtype=torch.int64),
    "old_logp": ZEROS,
    "advantage": torch.ones(NUM),
    "layout": Padded(ZEROS == 0),
    "bias": torch.zeros(VOCABULARY),
}
IDS = GOOD["tokens"]


def shard(start: int, total: int) -> VocabularyShard:
    """Of the default group, which nobody asks anything."""
    return VocabularyShard(start, total, None)


def kl(ref: Any, **more: Any) -> KLTerm:
    """A KL term to these log-probs."""
    return KLTerm(**{"estimator": K3(), "ref_logp": ref, "coefficient": 0.1, **more})


WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "objective: expected an Objective such as GSPO, got str", {"objective": "gspo"}),
    *(
        (TypeError, f"{name}: expected a torch tensor, got builtins.list", {name: [0]})
        for name in ("hidden", "lm_head", "tokens")
    ),
    (TypeError, "bias: expected a torch tensor, got builtins.float", {"bias": 1.0}),
    *(
        (TypeError, f"{name}: expected a floating-point tensor", {name: GOOD[name].long()})
        for name in ("hidden", "lm_head", "bias")
    ),
    (TypeError, "tokens: expected int64 or int32 token ids, got torch.float32", {"tokens": IDS.float()}),
    (ValueError, r"lm_head: expected \[V, H\] with H = 4 .*, got \[4, 7\]", {"lm_head": GOOD["lm_head"].T}),
    (ValueError, r"tokens: expected \[2, 3\], hidden without its last axis, got \[3, 2\]", {"tokens": IDS.T}),
    (ValueError, r"tokens: expected \[3\], hidden without", {"hidden": GOOD["hidden"][0]}),
    (ValueError, r"bias: expected \[V\] = \[7\], got \[4\]", {"bias": torch.zeros(4)}),
    (ValueError, r"tokens: expected the layout's shape \[6\], got \[2, 3\]", {"layout": Packed(torch.zeros(6).long(), 2)}),
    (TypeError, r"layout: expected a layout such as Padded\(mask\), got Tensor", {"layout": ZEROS == 0}),
    (TypeError, r"layout: expected a layout such as Padded\(mask\), got NoneType", {"layout": None}),
    (ValueError, "old_logp: pass the old policy's log-probs", {"old_logp": None}),
    (ValueError, "old_logp: pass the old policy's log-probs", {"on_policy": True}),
    (ValueError, r"old_logp: expected the layout's shape \[2, 3\], got \[2\]", {"old_logp": torch.zeros(2)}),
    (TypeError, "old_logp: expected float32 or float64, got torch.bfloat16", {"old_logp": ZEROS.bfloat16()}),
    (TypeError, "old_logp: expected an array, got list", {"old_logp": [0.0]}),
    (TypeError, "old_logp: expected an array of one library with logp .*, got numpy.ndarray", {"old_logp": ZEROS.numpy()}),
    (TypeError, "advantage: expected an array, got list", {"advantage": [1.0, 1.0]}),
    (TypeError, "advantage: expected real numbers, got dtype torch.bool", {"advantage": torch.ones(2) > 0}),
    (ValueError, r"advantage: expected \[2\] \(one per sequence\)", {"advantage": torch.ones(3)}),
    (ValueError, r"advantage: Sequence\(.*\) has one ratio per sequence", {"advantage": ZEROS}),
    (
        ValueError,
        r"advantage: PerToken expected the layout's shape",
        {"advantage": PerToken(torch.ones(2)), "objective": GSPO_TOKEN},
    ),
    (ValueError, "denominator: expected a positive finite number, got 0", {"denominator": 0}),
    (ValueError, r"denominator: expected a number or a \[\] array, got shape \[2\]", {"denominator": torch.ones(2)}),
    *(
        (ValueError, f"temperature: expected a positive finite number, got {t}", {"temperature": t})
        for t in (0.0, -1.0, torch.inf)
    ),
    *(
        (ValueError, f"soft_cap: expected a positive finite number or None, got {t}", {"soft_cap": t})
        for t in (0.0, -1.0, torch.inf)
    ),
    *(
        (ValueError, "entropy_bonus: expected a finite number", {"entropy_bonus": b})
        for b in (torch.nan, torch.inf, torch.tensor(torch.nan))
    ),
    (TypeError, "entropy_bonus: expected a number, got '1'", {"entropy_bonus": "1"}),
    (TypeError, r"entropy_bonus: expected a number or a \[\] array, got \[2\]", {"entropy_bonus": torch.ones(2)}),
    *((ValueError, "budget_bytes: expected a whole number of at least 0, got ", {"budget_bytes": b}) for b in (-1, 0.5, None)),
    (ValueError, r"ref_logp: expected the layout's shape \[2, 3\], got \[3\]", {"kl": kl(torch.zeros(3))}),
    (TypeError, "ref_logp: expected float32 or float64, got torch.float16", {"kl": kl(ZEROS.half())}),
    (ValueError, "lm_head: 7 rows from row 3 on do not fit into a vocabulary of 9", {"vocabulary": shard(3, 9)}),
    *((ValueError, r"tokens: expected ids in \[0, 7\), .* got ids from ", {"tokens": IDS + bad}) for bad in (7, -1, 2**40)),
    (ValueError, r"tokens: expected ids in \[0, 9\), the rows of lm_head", {"tokens": IDS + 9, "vocabulary": shard(2, 9)}),
    (ValueError, r"(hidden|lm_head|tokens): expected the device of hidden, cpu, got meta", {"tokens": IDS.to("meta")}),
]


@pytest.mark.parametrize(("kind", "sentence", "wrong"), WRONG, ids=[f"{i} {w[1][:40]}" for i, w in enumerate(WRONG)])
def test_wrong_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], sentence: str, wrong: dict[str, Any]
) -> None:
    monkeypatch.setattr("gspo_torch.lm_head.two_pass.forward", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(kind, match=f"^{sentence}"):
        gspo_torch.linear_policy_loss(**{**GOOD, **wrong})


def test_the_good_arguments_are_good() -> None:
    assert gspo_torch.linear_policy_loss(**GOOD).value.item() == pytest.approx(-(VOCABULARY**-1.0), rel=1e-6)


def test_an_id_outside_of_the_vocabulary_is_refused_wherever_it_is_read() -> None:
    """One token among many; in a masked slot it is none, and a sequence without an advantage is not read."""
    wrong = IDS.clone()
    wrong[1, 2] = VOCABULARY
    with pytest.raises(ValueError, match=r"^tokens: expected ids in \[0, 7\), .* got ids from 0 to 7\. Select"):
        gspo_torch.linear_policy_loss(**{**GOOD, "tokens": wrong})
    mask = torch.ones(NUM, LENGTH, dtype=torch.bool)
    mask[1, 2] = False
    gspo_torch.linear_policy_loss(**{**GOOD, "tokens": wrong, "layout": Padded(mask)})
    unread = {**GOOD, "tokens": wrong, "advantage": torch.tensor([1.0, 0.0])}
    gspo_torch.linear_policy_loss(**unread)
    with pytest.raises(ValueError, match=r"^tokens: expected ids"):
        gspo_torch.linear_policy_loss(**unread, return_logp=True)


@pytest.mark.parametrize("coefficient", [float("nan"), float("inf"), torch.tensor(-torch.inf)])
def test_a_coefficient_is_finite(coefficient: Any) -> None:
    with pytest.raises(ValueError, match=r"^coefficient: expected a finite number, got "):
        kl(ZEROS, coefficient=coefficient)


def test_a_class_is_no_estimator() -> None:
    with pytest.raises(TypeError, match=r"^estimator: expected a value, got the class K3"):
        kl(ZEROS, estimator=K3)


@pytest.mark.parametrize(
    ("kind", "sentence", "start", "total"),
    [
        (ValueError, "start: expected a whole number of at least 0 and at most 3, got 1.0", 1.0, 3),
        (ValueError, "start: expected a whole number of at least 0 and at most 3, got True", True, 3),
        (ValueError, "total: expected a whole number of at least 0, got None", 1, None),
        (ValueError, "start: expected a whole number of at least 0 and at most 3, got 4", 4, 3),
        (ValueError, "start: expected a whole number of at least 0 and at most 3, got -1", -1, 3),
    ],
)
def test_a_wrong_shard_is_refused(kind: type[Exception], sentence: str, start: Any, total: Any) -> None:
    with pytest.raises(kind, match=f"^{sentence}"):
        shard(start, total)
