"""The conformance kit: laws that a GSPO, GRPO or variant loss should keep, and a counterexample where it breaks one.

    from gspo_core import GSPO, laws

    laws.check(my_loss, like=GSPO)        my_loss(logp, old_logp, advantage, mask) -> scalar; NumPy, PyTorch or JAX
    laws.profile(my_loss)                 measures what the loss computes, and how that differs from the paper
    @laws.conformance(my_loss, like=GSPO) one pytest test per law
    gspo-laws my_package.losses:my_loss   the same from a shell; also python -m gspo_core.laws

A law is an object whose name is a sentence; `LAWS` has all of them, docs/laws.md lists them. `MUTANTS` are losses with one
mistake each, paired with the law that must detect it: they test the kit. Needs hypothesis: pip install "gspo-core[laws]".
"""

import importlib.util

if importlib.util.find_spec("hypothesis") is None:
    raise ImportError('gspo_core.laws needs hypothesis: pip install "gspo-core[laws]"')

from .cards.finding import ProfileFinding
from .cards.profiling import Profile, profile
from .chapters.catalogue import LAWS
from .checking import check, check_advantages, check_clip_fraction
from .for_pytest import conformance
from .kit.batch import Batch
from .kit.claim import Claim
from .kit.frameworks import JAX, NUMPY, STRICT, TORCH
from .kit.law import Law, Severity, Violation
from .kit.names import Names
from .kit.packing import as_padded
from .kit.report import Report
from .kit.runner import LawVerdict, Status
from .kit.strategies import batches
from .kit.subject import Framework, Subject
from .mutants import MUTANTS, Mutant
from .subjects import subject_of

__all__ = [
    "JAX",
    "LAWS",
    "MUTANTS",
    "NUMPY",
    "STRICT",
    "TORCH",
    "Batch",
    "Claim",
    "Framework",
    "Law",
    "LawVerdict",
    "Mutant",
    "Names",
    "Profile",
    "ProfileFinding",
    "Report",
    "Severity",
    "Status",
    "Subject",
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


def __dir__() -> list[str]:
    """The public names only, so that `laws.` completes to them and not to the folders of this package."""
    return __all__
