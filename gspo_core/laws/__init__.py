"""The conformance kit: laws that any GSPO, GRPO or variant claims, and counterexamples where it does not keep them.

    from gspo_core import GSPO, laws

    laws.check(my_loss, like=GSPO)        my_loss(logp, old_logp, advantage, mask) -> scalar; NumPy, PyTorch or JAX
    laws.profile(my_loss)                 states nothing, finds out what the loss does, and says it in words
    @laws.conformance(my_loss, like=GSPO) one pytest test per law
    gspo-laws my_package.losses:my_loss   the same from a shell

A law is an object with a sentence as its name; `LAWS` has them all, docs/laws.md lists them. `MUTANTS` are wrong losses,
each beside the law that it must break: they prove the kit. Needs hypothesis: pip install "gspo-core[laws]".
"""

from .cards.measure import Finding
from .cards.profiling import Profile, profile
from .chapters.catalogue import LAWS
from .checking import check, check_advantages, check_clip_fraction, subject_of
from .for_pytest import conformance
from .kit.batch import Batch
from .kit.claim import Claim
from .kit.frameworks import JAX, NUMPY, STRICT, TORCH
from .kit.law import Law, Violation
from .kit.packing import as_padded
from .kit.report import Report
from .kit.runner import Status, Verdict
from .kit.strategies import batches
from .kit.subject import Framework, Names, Subject
from .mutants import MUTANTS, Mutant

__all__ = [
    "JAX",
    "LAWS",
    "MUTANTS",
    "NUMPY",
    "STRICT",
    "TORCH",
    "Batch",
    "Claim",
    "Finding",
    "Framework",
    "Law",
    "Mutant",
    "Names",
    "Profile",
    "Report",
    "Status",
    "Subject",
    "Verdict",
    "Violation",
    "as_padded",
    "batches",
    "check",
    "check_advantages",
    "check_clip_fraction",
    "conformance",
    "profile",
    "subject_of",
]
