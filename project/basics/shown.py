"""The way for code deep inside a command to answer with a text."""


class Shown(Exception):  # noqa: N818 - not an error
    """The arguments ask for a text, which is the message, and not for a run. The command line prints it: status 0."""
