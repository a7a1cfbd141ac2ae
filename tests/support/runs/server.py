"""The server from which the tests' processes are forked: it imports the frameworks once, whichever test starts it.

A second list of modules would have no effect, and a process imports for seconds what its server has not.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from typing import Any
from unittest.mock import patch

from support.repository import PATHS


def started_server() -> Any:
    """The context whose processes it forks. It ends with this process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.runs.imported_once"])
    # Python 3.11's server takes its import path from the environment alone, and is silent about what it cannot import.
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(PATHS)):
        forkserver.ensure_running()
    return context
