"""Sizes: batches of many rows, and responses of thousands of tokens, of lengths that are no powers of two."""

from __future__ import annotations

import functools
import math

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, Severity, demand, law
from gspo_core.laws.kit.oracle import unknown_parts
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Product, ProductToken
from gspo_core.objectives.soft_surrogates import GammaWeight

SHAPES = [(9, 5), (17, 7), (131, 2)]
"""(rows, slots) of ragged batches: one more than the sizes in which rows are usually cut into chunks."""
MANY = 20
"""Rows up to which a counterexample is printed in full."""
NEAR = 2e-5
"""Distance from every bound, beyond the reach of finite differences."""
SEEDS = range(100)
SCATTER = 0.05
"""Standard deviation of the tokens' log ratios in long responses."""


def _log_probs(rng: np.random.Generator, d: Floats) -> tuple[Floats, Floats]:
    """Random log π and log π_old with the log ratios d, both of them below 0."""
    old = -rng.exponential(size=d.shape) - np.maximum(d, 0.0)
    return np.minimum(old + d, 0.0), old


class _Ragged(Batch):
    """A batch of many rows, printed in a few lines."""

    def __str__(self) -> str:
        """All rows, or the first three of them."""
        if len(self.mask) <= MANY:
            return super().__str__()
        return f"{len(self.mask)} responses, the first three of them:\n{Batch.__str__(self.rows(slice(0, 3)))}"


def _ragged(setting: Setting, shape: tuple[int, int], seed: int) -> Batch:
    """Rows of any length, the empty one included, with log ratios of all sizes of the setting and advantages up to 250."""
    for trial in SEEDS:
        rng = np.random.default_rng([seed, trial, *shape])
        mask = rng.random(shape) < rng.choice([0.4, 0.8, 1.0], size=(shape[0], 1))
        level = rng.choice([0.5, -0.6, 1.7, -1.9, 0.2, -0.1, 0.0], size=(shape[0], 1)) * min(setting.low, setting.high)
        spread = rng.choice([0.0, *np.minimum(setting.scales, 1.0)], size=(shape[0], 1)) * rng.normal(size=shape)
        advantage = rng.choice([1.0, -1.0, 2.0, -0.5, 0.0, 250.0, -170.0, 1e-3], size=shape[0])
        logp, old = (np.where(mask, x, 0.0) for x in _log_probs(rng, level + spread))
        batch = _Ragged(logp, old, advantage, mask)
        if setting.is_clear(batch, NEAR):
            return batch
    raise AssertionError(f"all batches of {len(SEEDS)} seeds are within {NEAR:g} of a bound of {setting.like}")


@law(
    "a batch of many ragged rows has the loss of its rows",
    source="docs/theory.md, C6 and G5: one mean over all responses, or tokens; means of micro-batch means: trl#6024, verl#7321",
    otherwise="rows are averaged in chunks, or the loss changes from some number of rows, of tokens, or size of advantage on",
    needs={Claim.KNOWN_FORMULA},
    cases=lambda setting: st.tuples(st.sampled_from(SHAPES), st.integers(0, 99)),
    anchors=lambda setting: [(shape, 0) for shape in SHAPES],
    effort=0.05,
)
def ragged(subject: Subject, setting: Setting, case: tuple[tuple[int, int], int]) -> bool:
    """Value and gradient of 9, 17 and 131 rows of unequal lengths, with advantages up to ±250, equal those of the oracle.

    Finite differences are differences of the value, and take four calls per token: they are asked for 9 rows alone.
    """
    batch = _ragged(setting, *case)
    with_gradient = subject.own_gradient or (Claim.DERIVATIVE in setting.claims and case[0] == SHAPES[0])
    found, expected = subject(batch) if with_gradient else subject.value(batch), setting.expected(batch)
    same_value(found, expected.value, setting, batch, "the loss")
    if with_gradient:
        same_weight(found, expected.weight, setting, batch, "the gradient")
    return True


LENGTHS = [257, 2049, 4099, 8209, 33001]
"""Not representable, one after the other, in bfloat16 or 8 bits, in float16, beyond usual limits, in 16 bits."""


ONE_AFTER_ANOTHER = 10.0 * max(LENGTHS)
"""Units of rounding that a sum of so many terms may be off by."""


class _Lengths(Batch):
    """A batch that is too long to print."""

    def __str__(self) -> str:
        """The lengths, means and advantages."""
        rows = zip(self.lengths, self.d.sum(axis=1) / self.lengths, self.advantage, strict=True)
        return "\n".join(f"{n} tokens, random log ratios with mean {x:.3g}; A = {a:g}" for n, x, a in rows)


@functools.lru_cache(maxsize=4)
def _lengths(seed: int, summed: bool) -> Batch:
    """One response of each length, at changing places in its row; mean log ratios (or sums) are on the side without a clip."""
    rng = np.random.default_rng(seed)
    lengths, width = np.array(LENGTHS)[:, None], max(LENGTHS)
    slots = np.arange(width)
    first = np.array([[0], [1], [width - 4099], [7], [0]])
    mask = (slots >= first) & (slots < first + lengths)
    advantage = np.array([1.0, -2.0, 0.5, -1.0, 3.0])
    d = np.where(mask, SCATTER * rng.normal(size=mask.shape), 0.0)
    level = -0.3 * np.sign(advantage)[:, None] / (lengths if summed else 1)
    d = np.where(mask, d - d.sum(axis=1, keepdims=True) / lengths + level, 0.0)
    logp, old = (np.where(mask, x, 0.0) for x in _log_probs(rng, d))
    return _Lengths(logp, old, advantage, mask)


@functools.lru_cache(maxsize=8)
def _formula(like: Objective, batch: Batch) -> tuple[float, float, Floats]:
    """The oracle's value, scale and gradient, kept for the next loss like this objective: 47,615 tokens take a while."""
    expected = Setting(like).expected(batch)
    return expected.value, expected.scale, np.array(expected.weight)


@law(
    "a response of thousands of tokens has the loss of the formula",
    source="GSPO eq. 5 and 7 for any |y|; lengths counted in the dtype of a mask are wrong from 257 tokens (bfloat16) on",
    otherwise="long responses are cut off or summed in blocks, or their length is counted in too few bits",
    needs={Claim.KNOWN_FORMULA},
    cases=lambda setting: st.integers(0, 99),
    anchors=lambda setting: [0],
    effort=0.02,
)
def long_formula(subject: Subject, setting: Setting, seed: int) -> bool:
    """257, 2049, 4099, 8209 and 33001 tokens: value and, unless it takes finite differences, gradient equal the oracle's."""
    batch = _lengths(seed, isinstance(setting.like.ratio, (Product, ProductToken)))
    # The code of an unknown part is the loss's own, and may not even be a function of its arguments: it is asked each time.
    oracle = _formula.__wrapped__ if unknown_parts(setting.like) else _formula
    value, scale, weight = oracle(setting.like, batch)
    found = subject(batch) if subject.own_gradient else subject.value(batch)
    # The error of a sum of n numbers, one after another, is below n units of rounding of it: 33001, and a few for an exp.
    share = ONE_AFTER_ANOTHER * found.eps
    if Claim.PRINTED not in setting.claims:
        demand(found.value, value, share * scale, "the loss", batch)
    if subject.own_gradient:
        demand(found.weight, weight, share * np.abs(weight), "the gradient", batch)
    return True


LONG = 2**15


class _Long(Batch):
    """A batch that is too long to print."""

    def __str__(self) -> str:
        """A description of the batch."""
        lengths = ", ".join(map(str, self.lengths))
        return f"responses of {lengths} tokens, log ratios with standard deviation {SCATTER}; A = {self.advantage.tolist()}"


def _long(seed: int, sign: float, summed: bool) -> Batch:
    """Responses of up to 32768 tokens with a given mean log ratio, or a given sum if `summed`."""
    rng = np.random.default_rng(seed)
    lengths = np.array([LONG, LONG - 1, 1000, LONG // 2])[:, None]
    mask = np.arange(LONG) < lengths
    d = np.where(mask, SCATTER * rng.normal(size=mask.shape), 0.0)
    d = d - d.sum(axis=1, keepdims=True) / lengths
    d = d + (np.array([[0.0], [1.0], [-1.0], [2.0]]) / lengths if summed else np.array([[0.0], [1e-4], [-1e-4], [1e-3]]))
    logp, old = (x.astype(np.float32).astype(np.float64) for x in _log_probs(rng, d))
    return _Long(logp, old, sign * np.array([1.0, -1.0, 0.5, -0.5]), mask)


@law(
    "float32 stays accurate over 32768 tokens",
    source="docs/theory.md, H5: a clip range of 3e-4 needs log s to 1e-6, also as the mean of 32768 numbers",
    otherwise="log-probs are summed one after another, or before they are subtracted: rounding errors reach the clip range",
    needs={Claim.KNOWN_FORMULA, Claim.OWN_GRADIENT},
    cases=lambda setting: st.tuples(st.integers(0, 99), st.sampled_from([1.0, -1.0])),
    anchors=lambda setting: [(0, 1.0), (0, -1.0)],
    effort=0.02,
    severity=Severity.FRAGILE,
)
def long(subject: Subject, setting: Setting, case: tuple[int, float]) -> bool:
    """Value and gradient in float32 equal those in float64 to 1e-6, a hundredth of the paper's clip range.

    Ten times that if the log ratio is a sum over the tokens and not a mean; and ρᵏ e^(λ(1−ρ)) magnifies an error of log ρ
    by |k − λρ|, at most 3 e² here.
    """
    summed = isinstance(setting.like.ratio, (Product, ProductToken))
    batch = _long(*case, summed)
    size = (1e-5 if summed else 1e-6) * (3 * math.exp(2) if isinstance(setting.like.surrogate, GammaWeight) else 1.0)
    wide, narrow = subject(batch), subject(batch, dtype=np.float32)
    total = max(1.0, abs(wide.value), np.abs(wide.weight).sum())  # a sum of gains of either sign may be small
    demand(narrow.value, wide.value, size * total, "the loss in float32; required: the loss in float64", batch)
    allowed = size * np.abs(wide.weight) + 1e-30
    demand(narrow.weight, wide.weight, allowed, "the gradient in float32; required: the gradient in float64", batch)
    return bool(wide.weight.any())


SIZES: list[Law] = [ragged, long_formula, long]
