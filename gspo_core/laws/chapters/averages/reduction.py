"""Reductions: the weight of each response and of each token in the loss."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight, scale_of
from gspo_core.laws.kit.law import Law, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches, orders
from gspo_core.laws.kit.subject import Subject

RAGGED = Batch.of([[0.0, 0.0], [0.0, 0.0]], [1.0, 1.0], [[1, 0], [1, 1]])


@law(
    "every response has the same weight, whatever its length",
    source="GSPO eq. 5, (1/G) Σ_i; responses weighted by their length: trl#3823, ROLL#165",
    otherwise="long responses have more weight than short ones, or less",
    needs={Claim.SEQUENCE_MEAN, Claim.LEVEL_RATIO},
    cases=lambda setting: batches(setting, kinds=["on policy"], advantages=[1.0, -1.0]),
    anchors=lambda setting: [RAGGED],
)
def equal_responses(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """On policy with |A| = 1, the gradients of each response sum to −A/N."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    full = batch.lengths > 0
    expected = np.where(full, -batch.advantage / max(1, int(full.sum())), 0.0)
    found = subject(batch)
    mass = found._replace(weight=np.where(batch.mask, found.weight, 0.0).sum(axis=1))
    same_weight(mass, expected, setting, batch, "the sum of each response's gradients")
    return len(set(batch.lengths[full].tolist())) > 1


@law(
    "every token has the same weight",
    source="DAPO, arXiv 2503.14476, eq. 8: 1/Σ_j |y_j|",
    otherwise="tokens of long responses have less weight than those of short ones, or more",
    needs={Claim.TOKEN_MEAN, Claim.LEVEL_RATIO},
    cases=lambda setting: batches(setting, kinds=["on policy"], advantages=[1.0, -1.0]),
    anchors=lambda setting: [RAGGED],
)
def equal_tokens(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """On policy, the gradient of every token is −A/Σ_j |y_j|."""
    batch = batch.with_padding(0.0)
    if not setting.is_clear(batch, subject.kink):
        return False
    expected = -batch.token_advantage / max(1, int(batch.mask.sum()))
    same_weight(subject(batch), expected, setting, batch, "the gradient")
    return len(set(batch.lengths[batch.lengths > 0].tolist())) > 1


@law(
    "the order of the responses does not matter",
    source="docs/theory.md, C6",
    otherwise="the loss depends on the position of a response in the batch",
    cases=lambda setting: batches(setting, rows=(2, 3)).flatmap(lambda b: st.tuples(st.just(b), orders(len(b.mask)))),
    anchors=lambda setting: [(Batch.of([[0.0], [0.0]], [1.0, -1.0]), [1, 0])],
)
def order(subject: Subject, setting: Setting, case: tuple[Batch, list[int]]) -> bool:
    """Permuting the rows leaves the value unchanged and permutes the gradient."""
    batch, new = case[0].with_padding(0.0), case[1]
    expected, found = subject(batch), subject(batch.rows(new))
    note = f"rows in the order {new}; required: the permuted result"
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(found, expected.weight[new], setting, batch, "the gradient", note)
    return new != sorted(new)


@law(
    "copying the batch does not change the loss",
    source="docs/theory.md, C6: the loss is a mean, not a sum",
    otherwise="the loss grows or shrinks with the number of responses",
    cases=lambda setting: st.tuples(batches(setting, rows=(1, 2)), st.integers(2, 3)),
    anchors=lambda setting: [(Batch.of([[0.0]], [1.0]), 2)],
)
def copies(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """k copies of every response leave the value unchanged; each copy has 1/k of the gradient."""
    batch, times = case[0].with_padding(0.0), case[1]
    many = batch.rows(np.tile(np.arange(len(batch.mask)), times))
    expected, found = subject(batch), subject(many)
    note = f"{times} copies of the batch; required: the result on one"
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        whole = found._replace(weight=found.weight.reshape(times, *batch.mask.shape).sum(axis=0))
        same_weight(whole, expected.weight, setting, batch, "the sum of the copies' gradients", note)
    return bool(batch.mask.any())


@law(
    "a response does not change the gradients of the others",
    source="GSPO eq. 5 is a sum of terms of single responses; log ratios centred over the batch: Soup#723",
    otherwise="the log ratios or advantage of one response change the gradient of another",
    cases=lambda setting: st.tuples(batches(setting, rows=(2, 3)), batches(setting, rows=(1, 1), width=(4, 4), holes=False)),
    anchors=lambda setting: [(Batch.of([[0.0], [0.0]], [1.0, -1.0]), Batch.of([[0.5, 0.5, 0.5, 0.5]], [2.0]))],
)
def independent(subject: Subject, setting: Setting, case: tuple[Batch, Batch]) -> bool:
    """Replacing the numbers of the first row (same mask) leaves the gradients of all other rows unchanged."""
    batch, other = case[0].with_padding(0.0), case[1]
    width = batch.mask.shape[1]
    logp, old_logp, advantage = batch.logp.copy(), batch.old_logp.copy(), batch.advantage.copy()
    logp[0], old_logp[0], advantage[0] = other.logp[0, :width], other.old_logp[0, :width], other.advantage[0]
    changed = Batch(logp, old_logp, advantage, batch.mask).with_padding(0.0)
    if not (setting.is_clear(batch, subject.kink) and setting.is_clear(changed, subject.kink)):
        return False
    expected, found = subject(batch).weight.copy(), subject(changed)
    note = "the first row was replaced by another of the same length; required: the result before that"
    weight = found.weight.copy()
    expected[0], weight[0] = 0.0, 0.0
    noise = found.noise * (1.0 + scale_of(setting, batch) / (scale_of(setting, changed) + 1e-9))  # that of both
    same_weight(found._replace(weight=weight, noise=noise), expected, setting, changed, "the gradient of the other rows", note)
    return bool(batch.mask[0].any() and expected.any())


REDUCTION: list[Law] = [order, copies, independent, equal_responses, equal_tokens]
