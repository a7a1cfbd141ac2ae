"""docs/models.md is the record of a sweep, rendered, and in it no family is silently wrong."""

from __future__ import annotations

import dataclasses
import json

from integration.zoo.page import PAGE, RECORD, headline, render
from integration.zoo.sweep import families
from integration.zoo.trial import ALLOWED, Trial

SAVED = json.loads(RECORD.read_text(encoding="utf-8"))


def test_the_page_is_the_record_rendered() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(SAVED)
    changed = json.loads(json.dumps(SAVED))
    changed["families"][0]["verdict"] = "wrong"
    assert render(changed) != render(SAVED)


def test_the_record_has_every_family_and_none_is_silently_wrong() -> None:
    trials = [Trial(**row) for row in SAVED["families"]]
    assert [trial.family for trial in trials] == families()
    assert {trial.verdict for trial in trials} <= {"right", "refused", "not built"}
    right = [trial for trial in trials if trial.verdict == "right"]
    assert len(right) >= 115
    for trial in right:
        for name, allowed in ALLOWED.items():
            assert 0 <= getattr(trial, name) <= allowed
    assert all(trial.reason for trial in trials if trial.verdict != "right")
    assert all(trial.reason.startswith("--model: ") for trial in trials if trial.verdict == "refused")


def test_the_headline_counts_what_is_silently_wrong() -> None:
    faults = [Trial("b", "wrong"), Trial("c", "traceback"), Trial("d", "out of time")]
    trials = [Trial("a", "right", reading="padded, cache"), *faults]
    assert "**1 families are right** (1 padded, cache).\n0 are refused" in headline(trials)
    assert "3 are silently wrong" in headline(trials)
    assert dataclasses.replace(trials[0], logp=1e-6).line() == "a: right, padded, cache, logp 1e-06"
