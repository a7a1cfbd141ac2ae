"""python -m gspo_core.laws package.module:name, the same as the command gspo-laws."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
