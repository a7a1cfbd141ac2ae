"""Every family of causal language models of the installed transformers, tiny and random, through the training script.

python -m integration.model_zoo                     all of them, about five minutes; prints a line for each
python -m integration.model_zoo llama mamba         some
python -m integration.model_zoo --write             all, and writes docs/models.md and docs/results/models.json
    python -m integration.model_zoo --write llama       replaces one row of them, if it is of the same versions
"""

from __future__ import annotations

import argparse
import sys

from integration.zoo.page import write
from integration.zoo.sweep import families, sweep
from integration.zoo.trial import Trial


def main(arguments: list[str]) -> int:
    """Exit status 1 if a family is silently wrong, or ends in a traceback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="model types of transformers; default: all")
    parser.add_argument("--write", action="store_true", help="write the page and its record")
    options = parser.parse_args(arguments)
    trials: list[Trial] = []
    for trial in sweep(dict.fromkeys(options.families or families())):
        trials.append(trial)
        print(trial.line(), flush=True)
    if options.write:
        print(*write(trials), sep="\n")
    return int(any(trial.verdict in {"wrong", "traceback", "out of time"} for trial in trials))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
