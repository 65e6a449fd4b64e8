"""Numbers on the command lines of tools."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole_number(least: int) -> Callable[[str], int]:
    """A type of argparse: digits only, of a number that is not less than `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text!r} given, must be a whole number of {least} or more"
            )
        return int(text)

    return read
