"""The causes of broken laws: the suspect that computes what the loss computes, and the laws that it breaks, too."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.cause import Cause, smallest_first
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.law import Law, Severity
from gspo_core.laws.kit.runner import EXAMPLES, RAISES, LawVerdict, Status, run
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject

from .answers import Seen, agree, agreeing, answers, has_right_gradient, relative
from .formulas.approximations import approximations
from .formulas.clips import clips
from .formulas.credit import advantages, constants, weights_by_sign
from .formulas.decisions import decisions
from .formulas.empty import on_nothing
from .formulas.epsilons import epsilons
from .formulas.parts import parts
from .formulas.ratios import other_tokens, power, ratios
from .formulas.reductions import reductions
from .formulas.statistics import statistics
from .formulas.thresholds import thresholds
from .handling import handling
from .inputs import MEASURED
from .limits import limits
from .measures import power_of_a_token
from .mends import COARSE, coarse, constant_term, with_value_of, without_constant_term
from .places import place
from .properties import properties
from .suspect import OfResponses, Suspect, model_of
from .unsteady import unsteady

MILLIONTH = 1e-6
"""Largest relative difference that counts as an epsilon."""
SMALL = 5e-3
"""Relative difference below which only an epsilon is suspected."""
SPECIAL_FIRST = (
    "kl",
    "sampler",
    "masks",
    "other_inputs",
    "micro_batches",
    "reports",
    "layouts",
    "gspo_token",
    "reduction",
    "credit",
    "clip",
    "clip_bounds",
    "ratio",
    "ratio_algebra",
    "sizes",
    "paper",
    "numerics",
    "extremes",
)
"""Chapters from the most special laws to the most general ones, which nearly every mistake breaks."""


def causes(subject: Subject, setting: Setting, verdicts: Sequence[LawVerdict], seed: int = 0) -> tuple[Cause, ...]:
    """The causes of the broken laws, the worst first; every broken law belongs to one of them."""
    broken = sorted((v for v in verdicts if v.status is Status.BROKEN), key=lambda v: _generality(v.law))
    found: list[Cause] = []
    if broken and (changing := unsteady(subject)):
        return tuple(_cause(changing, broken))
    nothing = on_nothing(subject) if broken else None
    if nothing is not None:
        suspect, subject = nothing
        again = [(v, run(v.law, subject, setting, seed, EXAMPLES)) for v in broken]
        follow = [v for v, left in again if left.status is not Status.BROKEN]
        found = _cause(suspect, sorted(follow, key=_required_of_itself))
        broken = [left for _, left in again if left.status is Status.BROKEN]
    wrong = [v for v in broken if v.law.severity is Severity.WRONG]
    seen = answers(subject, setting) if wrong and Claim.KNOWN_FORMULA in setting.claims else None
    found += _by_formula(subject, setting, seen, broken, seed) if seen else []
    for chapter, measure in MEASURED.items():
        left = [v for v in _left(wrong, found) if v.law.chapter == chapter]
        suspect_of_term = measure(subject, setting) if left and not _error(left[0]) else None
        found += _cause(suspect_of_term, left) if suspect_of_term else []
    left = _left(wrong, found)
    found += [_unknown(subject, setting, seen or [], left)] if left else []
    explained = {v.law for cause in found for v in cause.follow}
    fragile = [v for v in broken if v.law.severity is Severity.FRAGILE and v.law not in explained]
    found += [Cause(_error(v) or v.law.otherwise, "", Severity.FRAGILE, (v,)) for v in fragile]
    return tuple(sorted(found, key=lambda cause: list(Severity).index(cause.severity), reverse=True))


def _required_of_itself(v: LawVerdict) -> bool:
    """Whether the required number is a NaN that the loss itself returned on another batch."""
    expected = None if v.violation is None else v.violation.expected
    return expected is not None and not isinstance(expected, str) and bool(np.isnan(expected).any())


def _left(wrong: list[LawVerdict], found: list[Cause]) -> list[LawVerdict]:
    """The broken laws that no cause explains yet."""
    explained = {v.law for cause in found for v in cause.follow}
    return [v for v in wrong if v.law not in explained]


def _error(v: LawVerdict) -> str:
    """The error that a loss raises, if that is how it breaks a law."""
    raised = v.violation is not None and v.violation.what == RAISES
    return f"the loss raises {' '.join(str(v.violation.actual).split())}" if raised and v.violation else ""


def _generality(law: Law) -> int:
    """Its chapter's place; laws of chapters that are not listed are special."""
    return SPECIAL_FIRST.index(law.chapter) if law.chapter in SPECIAL_FIRST else 0


def _unknown(subject: Subject, setting: Setting, seen: list[Seen], left: list[LawVerdict]) -> Cause:
    """What no known difference explains: the most special law about the place where the loss differs, else that place."""
    if error := _error(left[0]):
        return Cause(error, "", Severity.WRONG, tuple(left), known=False)
    differs = [s for s in seen if not agree(setting, s, s.right)]
    measured = handling(subject, setting) or (properties(subject, setting, seen) if differs else None)
    measured = measured or limits(subject, setting, seen)
    if measured is not None:
        return Cause(measured.sentence, measured.fix, Severity.WRONG, smallest_first(left), known=False)
    found = place((s.batch, agree(setting, s, s.right)) for s in seen)
    chapters = found.chapters if found else ()
    chosen = next((v for chapter in chapters for v in left if v.law.chapter == chapter), left[0])
    said = found and (found.limited or chosen.law.chapter in {"paper", "sizes"})
    sentence = found.words if found and said else f"not so: {chosen.law.name}"
    fix = "" if said else f"A known mistake that breaks this law: {chosen.law.otherwise}"
    return Cause(sentence, fix, Severity.WRONG, (chosen, *smallest_first([v for v in left if v is not chosen])), known=False)


def _by_formula(subject: Subject, setting: Setting, seen: list[Seen], broken: list[LawVerdict], seed: int) -> list[Cause]:
    if all(agree(setting, s, s.right) for s in seen):
        return []
    suspect, beside = suspect_of(subject, setting, seen), list[Cause]()
    if suspect is None:
        suspect, beside = _beside_an_epsilon(subject, setting, seen, broken, seed)
    if suspect is not None:
        model, right = (model_of(x, subject, setting) for x in (suspect, Suspect("", "")))
        follow = [v for v in broken if not _holds(v.law, model, setting, seed)]
        # The formula itself may overflow: a law about extremes follows only if the right formula keeps it.
        follow = [v for v in follow if v.law.severity is Severity.WRONG or _holds(v.law, right, setting, seed)]
        return [*_cause(suspect, follow), *beside]
    for suspect, mended in _mends(subject, setting, seen):
        found = _cause(suspect, [v for v in broken if _holds(v.law, mended, setting, seed)])
        if found:
            return found
    return []


def _beside_an_epsilon(
    subject: Subject, setting: Setting, seen: list[Seen], broken: list[LawVerdict], seed: int
) -> tuple[Suspect | None, list[Cause]]:
    """A suspect that is the loss up to a millionth, as beside a bound in float32, and that epsilon as a cause of its own."""
    rough = [replace(s, found=s.found._replace(eps=max(s.found.eps, COARSE))) for s in seen]
    if all(agree(setting, s, s.right) for s in rough):
        return None, []
    suspect = suspect_of(subject, setting, rough)
    if suspect is None:
        return None, []
    words = "off by an epsilon besides, as from a constant in float32"
    harmless = Suspect(words, "harmless at this size; a float64 constant makes it exact", severity=Severity.HARMLESS)
    return suspect, _cause(harmless, [v for v in broken if _holds(v.law, coarse(subject), setting, seed)])


def _holds(law: Law, subject: Subject, setting: Setting, seed: int) -> bool:
    return run(law, subject, setting, seed, EXAMPLES, shrink=False).status is not Status.BROKEN


def _cause(suspect: Suspect, follow: list[LawVerdict]) -> list[Cause]:
    return [Cause(suspect.sentence, suspect.fix, suspect.severity, smallest_first(follow))] if follow else []


def suspect_of(subject: Subject, setting: Setting, seen: list[Seen]) -> Suspect | None:
    """The one suspect, else the pair of suspects, that agrees with the loss on all probes."""
    off = max(relative(setting, s) for s in seen)
    epsilon = agreeing(epsilons(), setting, seen) if off < SMALL else None
    if epsilon is not None or off <= MILLIONTH:
        return epsilon
    found = _in_value_and_gradient(subject, setting, seen)
    if found is not None:
        return found
    plain = [s for s in seen if not s.batch.per_token]
    if len(plain) < len(seen) and not all(agree(setting, s, s.right) for s in plain):
        found = _in_value_and_gradient(subject, setting, plain)
        if found is not None:
            found = replace(found, sentence=f"with one advantage per response, {found.sentence}")
            right = all(agree(setting, s, s.right) for s in seen if s.batch.per_token)
            return OfResponses(**{f.name: getattr(found, f.name) for f in fields(found)}) if right else found
    if seen[0].found.noise == 0:
        return None
    # Differences of a loss that jumps say nothing about its gradient.
    values = [replace(s, found=s.found._replace(noise=np.inf)) for s in seen]
    return (
        None if all(agree(setting, s, s.right) for s in values) else agreeing(_alone(subject, setting, values), setting, values)
    )


def _measured(seen: list[Seen]) -> tuple[float, float]:
    """Value and gradient of one response on policy, relative to the formula's, the gradient also to the value."""
    first = seen[0]
    value = first.found.value / first.right.value
    return value, float(first.found.weight[0, 0] / first.right.weight[0, 0]) / value if value else np.nan


def _alone(subject: Subject, setting: Setting, seen: list[Seen]) -> Iterator[Suspect]:
    """Every single difference; those that are measured on the loss come last, when the others have been tried."""
    value, slope = _measured(seen)
    like = setting.like
    yield from constants(value, slope)
    yield from clips(subject, setting)
    yield from ratios(like)
    yield from advantages()
    yield from reductions(like)
    yield from parts(subject, setting)
    yield from statistics()
    yield from other_tokens()
    yield from power(power_of_a_token(subject))
    yield from weights_by_sign(*_by_sign(subject, setting))
    yield from approximations(setting, value)
    yield from decisions(setting)
    yield from thresholds(subject, setting)


def _by_sign(subject: Subject, setting: Setting) -> tuple[float, float]:
    """The loss of a good and of a bad token on policy, relative to the formula."""
    tokens = [Batch.of([[0.0]], [a]) for a in (1.0, -1.0)]
    good, bad = (subject.value(token).value / (setting.expected(token).value or np.nan) for token in tokens)
    return good, bad


def _in_value_and_gradient(subject: Subject, setting: Setting, seen: list[Seen]) -> Suspect | None:
    """The one suspect, else the pair of suspects, that agrees with the loss on these probes."""
    found = agreeing(_alone(subject, setting, seen), setting, seen)
    if found is not None:
        return found
    value, slope = _measured(seen)
    like = setting.like
    constant, bounds, others, sums = constants(value, slope), clips(subject, setting), ratios(like), reductions(like)
    pairs = itertools.chain(
        itertools.product(constant, sums),
        itertools.product([*constant, *sums], [*others, *advantages(), *bounds]),
        itertools.product(others, bounds),
        itertools.combinations(others, 2),
    )
    return agreeing((one.and_also(other) for one, other in pairs), setting, seen)


def _mends(subject: Subject, setting: Setting, seen: list[Seen]) -> list[tuple[Suspect, Subject]]:
    """Differences without a model, each with the loss in which it is mended."""
    found: list[tuple[Suspect, Subject]] = []
    off = max(relative(setting, s) for s in seen)
    if off <= MILLIONTH:
        words = f"off by an epsilon: values differ by up to {off:.1g} of their size, as from an epsilon in a denominator"
        fix = "harmless at this size; clamp(min=1) in place of + epsilon, or a float64 constant, makes it exact"
        found.append((Suspect(words, fix, severity=Severity.HARMLESS), coarse(subject)))
    if has_right_gradient(setting, seen):
        words = "the gradient is right, and the value is another quantity"
        fix = "training is the same, and a logged loss means something else: return the value of the formula"
        found.append((Suspect(words, fix), with_value_of(subject, setting)))
    if any(abs(value) > 1e-9 for value in _without_advantages(subject, seen)):
        words = f"with advantages of 0 the loss is not 0: there is {constant_term(subject)}"
        fix = "check the policy loss without that term, or pass Names(ref_logp=...)"
        found.append((Suspect(words, fix), without_constant_term(subject)))
    return found


def _without_advantages(subject: Subject, seen: list[Seen]) -> list[float]:
    """The loss on the last probes with advantages of 0."""
    return [subject(replace(s.batch, advantage=np.zeros(s.batch.advantage.shape))).value for s in seen[-4:]]
