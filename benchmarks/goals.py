"""The goals of the LM head beside what was measured: prints the table, or keeps benchmarks/README.md's up to date.

.venv/bin/python benchmarks/goals.py [--write]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- goals: written by goals.py -->", "<!-- end of goals -->"


class Goal(NamedTuple):
    """A ratio of CPU times, or a memory, that must not be exceeded."""

    what: str
    measure: str
    """A pair of `cpu_ratios`; "memory" for MiB beyond the gradients, "memory/liger" for the share of Liger's."""
    dense: float
    real: float


GOALS = (
    Goal("aligned: time, of the floor's", "aligned/floor", 1.15, 0.80),
    Goal("aligned: time, of Liger's", "aligned/liger", 1 / 1.6, 1 / 5),
    Goal("aligned: time, of naive packed", "aligned/naive", 0.85, 0.55),
    Goal("two-pass: time, of naive packed", "two_pass/naive", 1.0, 0.65),
    Goal("two-pass: MiB beyond the gradients", "memory", 64, 64),
    Goal("two-pass: memory, of Liger's", "memory/liger", 1 / 3, 1 / 3),
)


def measured(goal: Goal, row: dict[str, Any]) -> float | None:
    """The median ratio or the memory; None if the row does not have it."""
    if not goal.measure.startswith("memory"):
        ratio = row["cpu_ratios"].get(goal.measure)
        return None if ratio is None else float(ratio["median"])
    memory = {name: one.get("beyond_gradients_mib") for name, one in row["implementations"].items()}
    mine, theirs = memory.get("two_pass"), memory.get("liger")
    if goal.measure == "memory" or mine is None:
        return mine
    return None if not theirs else mine / theirs


def verdict(goal: Goal, row: dict[str, Any]) -> str:
    """ "0.97 of 1.00: met", for one cell of the table."""
    found, bound = measured(goal, row), getattr(goal, row["case"])
    if found is None:
        return "not measured"
    form = ".0f" if goal.measure == "memory" else ".2f"
    met = "met" if found <= bound else "**missed**"
    told = f"{found:{form}}"
    if found > bound and told == f"{bound:{form}}":
        told = f"{found:.3f}"  # rounded, it would seem to be met
    return f"{told}, goal ≤ {bound:{form}}: {met}"


def goals_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    if not rows:
        return "Not measured yet."
    lines = ["| | " + " | ".join(f"{row['shape']} {row['case']}" for row in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    lines += [f"| {goal.what} | " + " | ".join(verdict(goal, row) for row in rows) + " |" for goal in GOALS]
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    """The page with this table between its two marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def committed() -> list[dict[str, Any]]:
    """The rows of results/lm_head.json; none if there is no such file yet."""
    path = FOLDER / "results" / "lm_head.json"
    return list(json.loads(path.read_text())["rows"]) if path.exists() else []


def main() -> None:
    """Print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    table = goals_table(committed())
    if parser.parse_args().write:
        page = FOLDER / "README.md"
        page.write_text(with_table(page.read_text(encoding="utf-8"), table), encoding="utf-8")
    else:
        print(table)


if __name__ == "__main__":
    main()
