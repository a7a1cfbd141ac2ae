"""A long test of the conformance kit: python tests/support/laws_in_full.py, or `make laws`: 20 minutes on one core.

1. Twenty seeds: every mutant breaks the law that must detect it, with a counterexample of at most 2 × 3.
2. Twenty seeds: GSPO, GSPO_TOKEN, GRPO and the correct NumPy losses keep every law, every time.
3. Ten times the usual examples: every preset keeps every law that applies to it.

Prints one line per part and exits with 1 if there is a failure.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from gspo_core import GRPO, GSPO, GSPO_TOKEN, laws
from gspo_core.laws.kit.runner import EXAMPLES, size
from gspo_core.laws.mutants import check_mutant, gspo, right
from gspo_core.laws.mutants.mutant import LIKE
from gspo_core.objectives import PRESETS

SEEDS = range(20)


def mutants() -> list[str]:
    """Failures of part 1."""
    wrong, large = [], Counter[str]()
    for seed in SEEDS:
        for mutant in laws.MUTANTS:
            violation = check_mutant(mutant, seed).verdicts[0].violation
            if violation is None:
                wrong.append(f"alive: {mutant.name}, seed {seed}")
            elif not _is_small(violation):
                large[mutant.name] += 1
    if len(large) > len(laws.MUTANTS) // 10:
        wrong.append(f"counterexamples larger than 2 × 3: {dict(large)}")
    return wrong


def _is_small(violation: laws.Violation) -> bool:
    sequences, tokens = size(violation)
    return sequences <= 2 and tokens <= 3


def steady() -> list[str]:
    """Failures of part 2."""
    right_ones = [(GSPO, GSPO), (GSPO_TOKEN, GSPO_TOKEN), (GRPO, GRPO), (gspo, LIKE), (right, LIKE)]
    return [
        f"{report.subject}, seed {seed}: {[v.law.name for v in report.broken]}"
        for seed in SEEDS
        for loss, like in right_ones
        if (report := laws.check(loss, like, seed)).broken or report.untested
    ]


def thorough() -> list[str]:
    """Failures of part 3."""
    reports = {name: laws.check(value, value, examples=10 * EXAMPLES) for name, value in PRESETS.items()}
    return [
        f"{name}: {[v.law.name for v in report.broken]}\n{report}"
        for name, report in reports.items()
        if report.broken or report.untested
    ]


def main() -> int:
    """All three parts."""
    status = 0
    for part in (mutants, steady, thorough):
        start = time.process_time()
        wrong = part()
        print(
            f"{part.__name__}: {wrong or 'no failure'} ({time.process_time() - start:.0f} s CPU)",
            flush=True,
        )
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
