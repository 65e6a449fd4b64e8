"""What every command line here shares: logging to stderr and errors without a traceback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from datasets.errors import DataError


def run(command: Callable[[], object]) -> int:
    """Run a command body; return 0, or print `error: ...` and return 2.

    Args:
        command: takes nothing, raises `DataError` or `OSError` on failure.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        command()
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
