"""The results of a check or a profile as one HTML file without scripts: causes first, all laws behind a fold."""

from __future__ import annotations

from datetime import datetime
from html import escape

from gspo_core.laws.kit.cause import Cause
from gspo_core.laws.kit.report import WORDS, Report
from gspo_core.laws.kit.runner import LawVerdict

from .contents import AGREES, MEASURED, NOTHING, line, notes, ordered, report_of, verdict
from .contents import title as title_of
from .finding import ProfileFinding
from .profiling import Profile
from .sources import as_html

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; } td { border-top: 1px solid #ddd; padding: .3rem .5rem; vertical-align: top; }
.good { color: #17692c; } .bad { color: #a4161a; font-weight: 600; } .grey { color: #777; } .warn { color: #8a5a00; }
pre { background: #f6f6f6; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
"""
CLASSES = {"holds": "good", "BROKEN": "bad", "fragile": "warn", "harmless": "warn", "untested": "warn", "-": "grey"}


def page(found: Report | Profile, now: datetime | None = None) -> str:
    """The HTML page of a check or a profile. `now` is the date that it shows; None: today."""
    report = report_of(found)
    title = escape(title_of(report))
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    causes = "".join(map(_cause, report.causes)) or f"<p class='good'>{NOTHING}</p>"
    trusted = "".join(f"<p>{escape(words)}</p>" for words in notes(report))
    findings = _findings(found) if isinstance(found, Profile) else ""
    verdicts = ordered(report)
    rows = "".join(_row(report, v) for v in verdicts)
    fold = f"<details><summary>All {len(verdicts)} laws</summary><table>{rows}</table></details>"
    said = f"<p class='grey'>{escape(line(report, now))}</p>"
    return f"{head}<h1>{title}</h1>{causes}{trusted}{findings}{said}{fold}</html>\n"


def _cause(cause: Cause) -> str:
    sentence, *rest = str(cause).splitlines()
    words = "bad" if WORDS[cause.severity] == "Cause" else "warn"
    laws = "".join(f"<li>{escape(v.law.name)}</li>" for v in cause.follow)
    fold = f"<details><summary>{escape(cause.laws)}</summary><ul>{laws}</ul></details>"
    more = escape("\n".join(line.strip() for line in rest))
    return f"<h2 class='{words}'>{WORDS[cause.severity]}: {escape(sentence)}</h2><pre>{more}</pre>{fold}"


def _findings(profile: Profile) -> str:
    def row(f: ProfileFinding) -> str:
        mark = "good" if f.agrees else "bad"
        return f"<tr><td class='{mark}'>{AGREES[f.agrees]}</td><td>{escape(f.sentence)}</td></tr>"

    return f"<h2>{MEASURED}</h2><table>{''.join(row(f) for f in profile.findings)}</table>"


def _row(report: Report, v: LawVerdict) -> str:
    broken = "" if v.violation is None else f"<pre>{escape(str(v.violation))}</pre>"
    name = f"{escape(v.law.name)}<br><span class='grey'>{as_html(escape(v.law.source))}</span>{broken}"
    return f"<tr><td class='{CLASSES[report.mark(v)]}'>{escape(verdict(report, v))}</td><td>{name}</td></tr>"
