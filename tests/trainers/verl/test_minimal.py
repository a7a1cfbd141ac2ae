"""The program for maintainers still shows what it says. When it fails, the trainer was mended: update docs/in-the-wild.md."""

import subprocess
import sys

from support.repository import ROOT

SCRIPT = ROOT / "integration" / "wild" / "minimal" / "verl_default.py"


def test_the_difference() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    default, mean, paper = (float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()[-3:])
    assert (default, mean, paper) == (0.5, 0.0, 0.0)
