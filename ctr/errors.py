"""The errors that a user can mend."""


class UserError(ValueError):
    """Something outside the code is wrong; the message names it and says what to do.

    The entry points print it in one line and end with exit code 2.
    """
