"""What the HTML and the Markdown card say, in words: one text for both."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime

from gspo_core import __version__
from gspo_core.laws.kit.report import BROKEN, Report
from gspo_core.laws.kit.runner import LawVerdict, Status

from .profiling import Profile

ORDER = [*BROKEN.values(), "untested", "holds", "-"]
"""Laws of a card: the broken ones first."""
NOTHING = "No law is broken."
MEASURED = "Measured properties"
AGREES = {True: "same as the paper", False: "different"}


def report_of(found: Report | Profile) -> Report:
    """The report of a check or a profile."""
    return found.report if isinstance(found, Profile) else found


def title(report: Report) -> str:
    """The loss, and the objective with its clip range."""
    return f"{report.subject}, like {report.like}"


def line(report: Report, now: datetime | None) -> str:
    """The counts, the seed, versions and the date, on one line. `now` is the date; None: today."""
    said = [report.summary, f"seed {report.seed}", *versions(report.framework), f"{now or datetime.now(UTC):%Y-%m-%d}"]
    return " · ".join(said)


def versions(framework: str) -> list[str]:
    """gspo-core, Python and the array library, with their versions."""
    library = framework.replace("_", "-")
    found = [f"{library} {importlib.metadata.version(library)}"] if library else []
    return [f"gspo-core {__version__}", f"Python {platform.python_version()}", *found]


def notes(report: Report) -> list[str]:
    """How the loss was called, and what could not be checked."""
    return [f"{words}." for words in (report.note, *(f"Not checked: {x}" for x in report.unchecked)) if words]


def ordered(report: Report) -> list[LawVerdict]:
    """All laws, the broken ones first."""
    return sorted(report.verdicts, key=lambda v: ORDER.index(report.mark(v)))


def verdict(report: Report, v: LawVerdict) -> str:
    """A verdict in words, with the reason if a law could not be tested."""
    return report.mark(v).lower() if v.status is Status.BROKEN else f"{v.status.value}. {v.refusal}".removesuffix(". ")
