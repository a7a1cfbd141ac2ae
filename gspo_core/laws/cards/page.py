"""The results of a check or a profile as one HTML file without scripts."""

from __future__ import annotations

from html import escape
from typing import Any

from gspo_core.laws.kit.report import Report, mark
from gspo_core.laws.kit.runner import LawVerdict

from .profiling import Profile
from .sources import as_html

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; } td { border-top: 1px solid #ddd; padding: .3rem .5rem; vertical-align: top; }
.good { color: #17692c; } .bad { color: #a4161a; font-weight: 600; } .grey { color: #777; } .warn { color: #8a5a00; }
pre { background: #f6f6f6; padding: .6rem; overflow-x: auto; font-size: 13px; }
"""
CLASSES = {"holds": "good", "BROKEN": "bad", "fragile": "warn", "untested": "warn", "-": "grey"}


def page(found: Report | Profile) -> str:
    """The HTML page of a check or a profile."""
    report = found.report if isinstance(found, Profile) else found
    title = f"{report.subject}, like {report.like}"
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{STYLE}</style>"
    summary = f"{report.summary} ({report.framework}, seed {report.seed})"
    trusted = "".join(f"<p>Not checked: {escape(words)}.</p>" for words in report.unchecked)
    findings = _findings(found) if isinstance(found, Profile) else ""
    rows = "".join(_row(v) for v in report.verdicts)
    return (
        f"{head}<h1>{escape(title)}</h1><p>{escape(summary)}.</p>{trusted}{findings}<h2>Laws</h2><table>{rows}</table></html>\n"
    )


def _findings(profile: Profile) -> str:
    def row(f: Any) -> str:
        mark = "<td class='good'>same as the paper" if f.agrees else "<td class='bad'>different"
        return f"<tr>{mark}</td><td>{escape(f.sentence)}</td></tr>"

    return f"<h2>Measured properties</h2><table>{''.join(row(f) for f in profile.findings)}</table>"


def _row(v: LawVerdict) -> str:
    broken = ""
    if v.violation is not None:
        broken = f"<br>{escape(v.law.otherwise)}.<pre>{escape(str(v.violation))}</pre>"
    name = f"{escape(v.law.name)}<br><span class='grey'>{as_html(escape(v.law.source))}</span>{broken}"
    word = mark(v)
    said = word.lower() if v.violation is not None else f"{v.status.value}. {v.refusal}".removesuffix(". ")
    return f"<tr><td class='{CLASSES[word]}'>{escape(said)}</td><td>{name}</td></tr>"
