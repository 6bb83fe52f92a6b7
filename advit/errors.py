"""Errors a user can act on: the command line prints their message alone. Anything else is a bug with a traceback."""


class AdvitError(Exception):
    """Base of every error that advit raises on purpose. The message names the file or option and says what to do."""


class ConfigError(AdvitError):
    """An option is unknown, of the wrong type, or inconsistent with another."""


class DataError(AdvitError):
    """A folder, image or mask cannot be used as it is."""


class CheckpointError(AdvitError):
    """A run folder or checkpoint is missing, damaged, or belongs to another configuration."""


class TrainingError(AdvitError):
    """Training had to stop, for instance on a loss that is not finite."""


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """Return `` Did you mean 'X'?`` for the known word nearest to ``word``, or an empty string."""
    from difflib import get_close_matches

    match = get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


class NotebookError(AdvitError):
    """A notebook cannot be run as asked, or one of its cells failed."""
