"""The errors that a user can cause, each in three parts: what was wrong, what was expected, what to do."""


class UserError(Exception):
    """Something the user gave is wrong; shown as one line, without a trace, with exit code 2."""

    def __init__(self, problem: str, expected: str, remedy: str) -> None:
        super().__init__(f"{problem}; expected {expected}; {remedy}")
        self.problem = problem
        self.expected = expected
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        return type(self), (self.problem, self.expected, self.remedy)


class DataError(UserError):
    """A corpus cannot be read, or is not what it is said to be."""


class TokenizerError(UserError):
    """A tokenizer cannot be trained or loaded."""


class CacheError(UserError):
    """The token cache cannot be written or read."""
