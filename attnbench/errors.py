"""The one exception whose text is meant for users."""


class UsageError(ValueError):
    """Something the user can mend: one line that says what is wrong, where, and what would be right.

    The command line prints that line and exits with code 2; anything else that escapes is a bug.
    """
