"""What the code has to say on docs/crosswalk.md: `PYTHONPATH=.:tests python -m support.trainers.crosswalk_page` prints it."""

from __future__ import annotations

from support.trainers.crosswalk import written
from support.trainers.crosswalk_rows import ROWS
from support.trainers.crosswalk_rows.stated import DEFAULTS

HOSTS = list(DEFAULTS)
"""The trainers whose rows are executed, in the order of the page."""


def table(host: str) -> list[str]:
    """The rows of a trainer, as lines of a Markdown table."""
    lines = ["| set there | what is maximised | write here | equal |", "|---|---|---|---|"]
    for row in ROWS:
        if row.host == host:
            words = (f"`{written(row)}`", row.formula, f"`{row.ours}`", row.of)
            lines.append("| " + " | ".join(word.replace("|", "\\|") for word in words) + " |")
    return [line.replace("`no option`", "no option") for line in lines]


def defaults(host: str) -> str:
    """The sentence with a trainer's defaults."""
    return "Defaults: " + ", ".join(f"`{name}={value!r}`" for name, value in DEFAULTS[host].items()) + "."


if __name__ == "__main__":
    for host in HOSTS:
        print(host, "", *table(host), "", defaults(host), "", sep="\n")
