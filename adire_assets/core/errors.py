"""The one exception that a user's mistake becomes.

Its text is a full sentence that says what is wrong, where, and what to do about it. Every edge
(command line, Dagster asset, Triton backend) shows the text alone, without a traceback.
"""


class UserError(Exception):
    """Something that the user can mend; the message is the whole answer."""
