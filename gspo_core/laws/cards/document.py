"""docs/laws.md, made from the laws: python -m gspo_core.laws.document > docs/laws.md."""

from __future__ import annotations

from itertools import groupby

from gspo_core.laws.chapters.catalogue import EVERY
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.law import Law

HEAD = """# The laws

Made from the source by `python -m gspo_core.laws.document`; do not edit. `laws.check(loss, like=GSPO)` asks a loss every law
whose claims it makes; `laws.profile(loss)` makes no claims and finds out. Every law is tried on cases whose answer is known
beforehand and then on random ragged batches, and a law that no case could have broken counts as untested, not as kept.

Every law of a loss stands here and nowhere else: it is also how this package tests its own objectives. `tests/` asks all of
them of every preset on NumPy, array-api-strict and PyTorch, and of GSPO on JAX under jit; those that a library's own arithmetic
can break of every preset on JAX; value and gradient in every library, layout and precision. It adds only what is no law of a
loss: contracts of single functions, numbers done by hand, anchors of the scalar oracle, laws of other things (KL terms,
correction weights, metrics, losses of turns), transforms, runs.
"""


def _entry(law: Law) -> str:
    needs = ", ".join(sorted(claim.name for claim in law.needs)) or "nothing"
    explanation = " ".join(law.explanation.split())
    return f"### {law.name}\n\n{explanation}\n\nOtherwise: {law.otherwise}. Presupposes: {needs}. Source: {law.source}.\n"


def markdown() -> str:
    """The page."""
    chapters = [
        f"## {chapter.capitalize()}\n\n" + "\n".join(_entry(law) for law in group)
        for chapter, group in groupby(EVERY, key=lambda law: law.chapter)
    ]
    claims = "\n".join(f"| `{claim.name}` | {claim.value} |" for claim in Claim)
    return "\n".join([HEAD, *chapters, "## Claims\n", "| claim | says |", "|---|---|", claims, ""])


if __name__ == "__main__":
    print(markdown(), end="")
