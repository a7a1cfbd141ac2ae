"""Every mutant breaks the law that must detect it, with a small counterexample."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gspo_core import laws
from gspo_core.laws import MUTANTS, LawVerdict, Mutant, Status
from gspo_core.laws.chapters.catalogue import EVERY, named
from gspo_core.laws.kit.runner import run, size
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants import MutantKind, check_mutant, gspo, right
from gspo_core.laws.mutants.mutant import LIKE

SLOW = {
    "token_mean_of_token_ratios",
    "later_rows_weigh_less",
    "last_token_dropped",
    "unmoved_tokens_do_not_count",
    "masked_advantages_in_the_mean",
    "advantage_zero_is_nan",
    "gradient_in_padding",
    "token_advantage_divided",
    "other_tokens_in_the_ratio",
    "float16_sums",
    "bfloat16_ratio",
    "entropy_bonus_left_in",
    "reward_kl_not_detached",
    "sampler_weight_not_detached",
    "old_policy_overwritten",
    "chunks_of_sixty_four_rows",
    "small_log_ratios_dropped",
    "off_policy_by_the_sum",
    "off_policy_by_the_token",
    "off_policy_from_04",
    "off_policy_on_both_sides",
    "off_policy_ignored",
    "off_policy_of_the_good",
    "masked_are_not_counted",
    "gmpo_a_little_wider",
    "sapo_one_temperature",
    "sapo_without_the_four",
    "aspo_not_reciprocal",
    "grpo_on_the_log_ratio",
    "kl_of_the_first_estimator",
    "correction_not_masked",
    "gated_by_the_token",
    "later_tokens_weigh_more",
    "in_proportion_to_the_mean",
    "mean_of_this_rank",
    "unknown_gate_that_sees_the_batch",
    "neighbour_leaks",
    "mask_taken_for_a_prefix",
    "mean_of_two_means",
    "chunks_of_four_rows",
    "penalty_for_length_inside",
}
"""Mutants whose check takes over a quarter of a second: the search for a cause, or long responses."""
QUICK = {mutant.law: mutant.name for mutant in reversed(MUTANTS) if mutant.name not in SLOW}
"""The first other mutant of each law."""
ALL = [
    pytest.param(mutant, id=mutant.name, marks=() if QUICK.get(mutant.law) == mutant.name else pytest.mark.slow)
    for mutant in MUTANTS
]
BY_SIZE = {
    "a batch of many ragged rows has the loss of its rows",
    "a response of thousands of tokens has the loss of the formula",
}
"""Laws about sizes, whose mutants are right on small batches."""
LARGE = {
    "mean_of_two_means",
    "std_over_the_batch",
    "mean_over_the_batch",
    "rounding_blown_up",
    "groups_by_position",
    "one_after_another",
}
LARGE |= {mutant.name for mutant in MUTANTS if mutant.law in BY_SIZE}
"""Mutants with larger counterexamples: mistakes in groups need three or four responses, rounding of a sum 32768 tokens."""
# The 28 of the issue trackers that have a number; the others are in the list of names below.
SEEN = [
    "trl#3823",
    "ROLL#165",
    "Trinity-RFT#154",
    "OpenRLHF#1252",
    "AReaL#1346",
    "Soup#723",
    "trl#6095",
    "trl#6369",
    "verl#7321",
]
SEEN += ["verl#5798", "ms-swift#10117", "NeMo-RL#2269", "verl#4105", "Soup#744", "verl#2775", "OpenRLHF#1293", "Tunix#1662"]
SEEN += ["tinker-cloud#66", "trl#6594", "WeatherGenerator#2717"]
SEEN += ["NeMo-RL#3753", "grpo-flat#2", "NeMo-RL#4158", "trl#6380"]
CLASSICS = {"stop_gradient_forgotten", "maximum_for_minimum", "widths_swapped", "reward_kl_not_detached"}


def by_draws(mutant: Mutant, seed: int) -> LawVerdict:
    """Runs the law that must detect a mutant of a loss, without the law's anchors."""
    law = replace(named(mutant.law), anchors=lambda _: [])
    (found,) = laws.check(mutant.loss, mutant.like, seed, claims=mutant.claims, names=mutant.names, laws=[law]).verdicts
    return found


@pytest.mark.parametrize("mutant", ALL)
def test_a_mutant_breaks_the_law_named_beside_it_and_the_first_sentence_says_what_is_wrong(mutant: Mutant) -> None:
    report = check_mutant(mutant)
    (found,) = report.verdicts
    assert found.status is Status.BROKEN
    assert mutant.says in report.causes[0].sentence
    assert found.violation is not None
    sequences, tokens = size(found.violation)
    assert (sequences <= 2 and tokens <= 3) or mutant.name in LARGE


@pytest.mark.slow
def test_nearly_all_are_found_by_draws_alone_and_shrink_to_two_by_three() -> None:
    """Random cases suffice; the anchors only make the search shorter. Bounds of gates, and sizes, are not left to chance."""
    drawn = [m for m in MUTANTS if m.kind is MutantKind.LOSS and m.law not in BY_SIZE and m.like.gate is None]
    found = {mutant.name: by_draws(mutant, seed=1) for mutant in drawn}
    alive = [name for name, v in found.items() if v.status is not Status.BROKEN]
    large = [
        name for name, v in found.items() if v.violation is not None and not all(map(int.__le__, size(v.violation), (2, 3)))
    ]
    assert len(alive) <= len(MUTANTS) // 20, alive
    assert len(large) <= len(MUTANTS) // 10, large


@pytest.mark.slow
@pytest.mark.parametrize("loss", [gspo, right], ids=["differences", "own gradient"])
def test_what_the_mutants_are_made_of_breaks_nothing(loss: object) -> None:
    report = laws.check(loss, like=LIKE, examples=30 if loss is right else 8)
    assert report.ok, str(report)
    assert len(report.kept) > 25


def test_a_mutant_without_a_first_sentence_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="says"):
        Mutant(gspo, "twice the advantage, twice the loss")  # type: ignore[call-arg]
    assert [mutant.name for mutant in MUTANTS if len(mutant.says.strip()) < 4] == []


def test_nearly_every_first_sentence_is_a_cause_and_not_the_name_of_the_law() -> None:
    """The others are about a layout, a report or a bit, where the law says best what is wrong."""
    by_law = [mutant.name for mutant in MUTANTS if mutant.says.startswith("not so:")]
    assert len(by_law) <= len(MUTANTS) // 20, by_law


def test_the_mutants_of_the_issue_trackers_are_there() -> None:
    seen = " ".join(mutant.seen for mutant in MUTANTS)
    assert [number for number in SEEN if number not in seen] == []
    assert {mutant.name for mutant in MUTANTS} >= CLASSICS
    assert len(SEEN) + len(CLASSICS) == 28


def test_most_counterexamples_are_small() -> None:
    assert len(MUTANTS) >= 150
    assert len([mutant for mutant in MUTANTS if mutant.name in LARGE and mutant.law not in BY_SIZE]) <= len(MUTANTS) // 10


def test_names_are_unique_and_every_named_law_exists() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({law.name for law in EVERY}) == len(EVERY)
    assert all(named(mutant.law) for mutant in MUTANTS)


def test_a_law_that_nothing_could_break_is_reported_as_untested() -> None:
    """No case of this law has a clipped unit, so no loss could break it."""
    law = named("a clipped unit has no gradient")
    idle = replace(law, cases=lambda setting: laws.batches(setting, advantages=[0.0]), anchors=lambda _: [])
    subject = laws.subject_of(gspo)
    assert run(idle, subject, Setting(LIKE, subject.claims(LIKE))).status is Status.UNTESTED
    report = laws.check(gspo, LIKE, laws=[idle])
    assert [v.law for v in report.untested] == [idle]
    assert "1 could not be tested" in str(report)
