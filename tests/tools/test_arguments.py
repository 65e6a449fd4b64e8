"""Numbers of command lines."""

from argparse import ArgumentTypeError

import pytest

from tools.arguments import whole_number


def test_digits_are_read():
    assert whole_number(0)("0") == 0
    assert whole_number(100)("0100") == 100


# str.isdigit() takes the square for a digit, int() the underscore for part of a number.
@pytest.mark.parametrize("text", ["99", "-100", "1e3", "1_000", "²", ""])
def test_what_is_no_such_number_is_refused(text):
    with pytest.raises(ArgumentTypeError, match=f"'{text}' given, must be .* of 100 or more"):
        whole_number(100)(text)
