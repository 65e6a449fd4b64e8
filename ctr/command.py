"""How the entry points end: an error in one line and exit code 2, never half a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ctr.errors import UserError


@contextmanager
def errors_to_exit() -> Iterator[None]:
    """Turn errors that the user can mend into a line on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
