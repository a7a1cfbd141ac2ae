"""The conformance kit proves itself at length: python tests/support/laws_in_full.py, or `make laws`: 20 minutes on one core.

1. Twenty seeds: every mutant is broken by the law named beside it, with a counterexample of at most 2 × 3.
2. Twenty seeds: GSPO, GSPO_TOKEN, GRPO and the correct NumPy losses keep every law, every time.
3. Ten times the usual examples: every preset keeps every law that it claims.

Prints one line per finding and exits with 1 if anything is otherwise than it should be.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, laws
from gspo_core.laws.kit.runner import EXAMPLES, size
from gspo_core.laws.mutants import gspo, right, tried
from gspo_core.laws.mutants.mutant import LIKE
from gspo_core.objectives import presets

SEEDS = range(20)


def mutants() -> list[str]:
    """What went wrong in 1."""
    wrong, large = [], Counter[str]()
    for seed in SEEDS:
        for mutant in laws.MUTANTS:
            violation = tried(mutant, seed).violation
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
    """What went wrong in 2."""
    right_ones = [(GSPO, GSPO), (GSPO_TOKEN, GSPO_TOKEN), (GRPO, GRPO), (gspo, LIKE), (right, LIKE)]
    return [
        f"{report.subject}, seed {seed}: {[v.law.name for v in report.broken]}"
        for seed in SEEDS
        for loss, like in right_ones
        if not (report := laws.check(loss, like, seed)).ok
    ]


def thorough() -> list[str]:
    """What went wrong in 3."""
    found = {name: value for name, value in vars(presets).items() if isinstance(value, Objective)}
    reports = {name: laws.check(value, value, examples=10 * EXAMPLES) for name, value in found.items()}
    return [f"{name}: {[v.law.name for v in report.broken]}\n{report}" for name, report in reports.items() if not report.ok]


def main() -> int:
    """All three."""
    status = 0
    for part in (mutants, steady, thorough):
        start = time.process_time()
        wrong = part()
        print(
            f"{part.__name__}: {wrong or 'as it should be'} ({time.process_time() - start:.0f} s CPU)",
            flush=True,
        )
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
