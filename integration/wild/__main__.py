"""Run the conformance kit on the losses of the installed trainers.

    python -m integration.wild                prints a section per host
    python -m integration.wild --host TRL     one host
    python -m integration.wild --write        also writes docs/results/in-the-wild.json and docs/in-the-wild.md

Hosts are not dependencies of this package: what is not installed is said to be so.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from .hosts import HOSTS
from .record import markdown, page, record

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m integration.wild", description=str(__doc__).splitlines()[0])
    parser.add_argument("--host", choices=[host.name for host in HOSTS], help="one host (default: all)")
    parser.add_argument("--write", action="store_true", help="write the record and the page of the documentation")
    args = parser.parse_args()
    if args.write and args.host:
        parser.error("--write: expected a run of all hosts, got --host")
    found = record([host for host in HOSTS if args.host in (None, host.name)], datetime.now(UTC).date())
    print(markdown(found), end="")
    if args.write:
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        (DOCS / "results" / "in-the-wild.json").write_text(text, encoding="utf-8")
        (DOCS / "in-the-wild.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
