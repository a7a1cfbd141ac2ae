"""The results of a check or a profile as one HTML file without scripts: causes first, all laws behind a fold."""

from __future__ import annotations

import importlib.metadata
import platform
from datetime import UTC, datetime
from html import escape
from typing import Any

from gspo_core import __version__
from gspo_core.laws.kit.cause import Cause
from gspo_core.laws.kit.report import BROKEN, WORDS, Report
from gspo_core.laws.kit.runner import LawVerdict, Status

from .profiling import Profile
from .sources import as_html

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; } td { border-top: 1px solid #ddd; padding: .3rem .5rem; vertical-align: top; }
.good { color: #17692c; } .bad { color: #a4161a; font-weight: 600; } .grey { color: #777; } .warn { color: #8a5a00; }
pre { background: #f6f6f6; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
"""
CLASSES = {"holds": "good", "BROKEN": "bad", "fragile": "warn", "harmless": "warn", "untested": "warn", "-": "grey"}
ORDER = [*BROKEN.values(), "untested", "holds", "-"]
"""Laws of a page: the broken ones first."""


def page(found: Report | Profile, now: datetime | None = None) -> str:
    """The HTML page of a check or a profile. `now` is the date that it shows; None: today."""
    report = found.report if isinstance(found, Profile) else found
    title = f"{report.subject}, like {report.like}"
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    causes = "".join(map(_cause, report.causes)) or "<p class='good'>No law is broken.</p>"
    said = [report.summary, f"seed {report.seed}", *versions(report.framework), f"{now or datetime.now(UTC):%Y-%m-%d}"]
    notes = [report.note, *(f"Not checked: {words}" for words in report.unchecked)]
    trusted = "".join(f"<p>{escape(words)}.</p>" for words in notes if words)
    findings = _findings(found) if isinstance(found, Profile) else ""
    ordered = sorted(report.verdicts, key=lambda v: ORDER.index(report.mark(v)))
    rows = "".join(_row(report, v) for v in ordered)
    fold = f"<details><summary>All {len(ordered)} laws</summary><table>{rows}</table></details>"
    line = f"<p class='grey'>{escape(' · '.join(said))}</p>"
    return f"{head}<h1>{escape(title)}</h1>{causes}{trusted}{findings}{line}{fold}</html>\n"


def versions(framework: str) -> list[str]:
    """gspo-core, Python and the array library, with their versions."""
    library = framework.replace("_", "-")
    found = [f"{library} {importlib.metadata.version(library)}"] if library else []
    return [f"gspo-core {__version__}", f"Python {platform.python_version()}", *found]


def _cause(cause: Cause) -> str:
    sentence, *rest = str(cause).splitlines()
    words = "bad" if WORDS[cause.severity] == "Cause" else "warn"
    laws = "".join(f"<li>{escape(v.law.name)}</li>" for v in cause.follow)
    fold = f"<details><summary>{escape(cause.laws)}</summary><ul>{laws}</ul></details>"
    more = escape("\n".join(line.strip() for line in rest))
    return f"<h2 class='{words}'>{WORDS[cause.severity]}: {escape(sentence)}</h2><pre>{more}</pre>{fold}"


def _findings(profile: Profile) -> str:
    def row(f: Any) -> str:
        mark = "<td class='good'>same as the paper" if f.agrees else "<td class='bad'>different"
        return f"<tr>{mark}</td><td>{escape(f.sentence)}</td></tr>"

    return f"<h2>Measured properties</h2><table>{''.join(row(f) for f in profile.findings)}</table>"


def _row(report: Report, v: LawVerdict) -> str:
    broken = "" if v.violation is None else f"<pre>{escape(str(v.violation))}</pre>"
    name = f"{escape(v.law.name)}<br><span class='grey'>{as_html(escape(v.law.source))}</span>{broken}"
    word = report.mark(v)
    said = word.lower() if v.status is Status.BROKEN else f"{v.status.value}. {v.refusal}".removesuffix(". ")
    return f"<tr><td class='{CLASSES[word]}'>{escape(said)}</td><td>{name}</td></tr>"
