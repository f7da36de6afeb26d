"""Errors for people: each message names the file, record or key, and the way out.

Every class here means bad input (exit code 2). Anything else that escapes is a failure of the run (exit code 1).
"""


class KdexpError(Exception):
    """Bad input. The message is one sentence for the person at the terminal."""


class ConfigError(KdexpError):
    """A setting is unknown, of the wrong type, out of range or without effect."""

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DataError(KdexpError):
    """A data file is missing or does not hold what its format promises."""


class CacheError(KdexpError):
    """A stored teacher, checkpoint or teacher-output cache cannot be used as it is."""


class StudyError(KdexpError):
    """A study cannot be opened, continued or read."""


class RunFailed(Exception):
    """A run broke while training (exit code 1); the last good checkpoint is kept and the message says where."""
