"""The one exception of the package: its text is a complete line for the user."""


class LabError(Exception):
    """Something failed for a reason the user can act on; str() says what, on what, and why."""
