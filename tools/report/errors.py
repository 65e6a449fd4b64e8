"""The error of reports."""

from ctr.errors import UserError


class ReportError(UserError):
    """A report that cannot be made; names the file and says what to do."""
