"""Errors that a user can cause, with three fields: what was wrong, what was expected, and what to do."""


class UserError(Exception):
    """An error of the user, printed as two lines, `error:` and `hint:`, without a traceback; exit code 2.

    Args:
        problem: what was wrong, as a clause that includes the value.
        expected: what would have been right, as a noun phrase; empty if that is clear from the problem.
        remedy: what to do, as an imperative; commands and keys in it work when pasted.
    """

    def __init__(self, problem: str, expected: str, remedy: str) -> None:
        super().__init__(problem, expected, remedy)
        self.problem = problem
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.sentence}\nhint: {self.remedy}"

    @property
    def sentence(self) -> str:
        """What was wrong and what was expected, without the hint."""
        return f"{self.problem}; expected {self.expected}" if self.expected else self.problem


class DataError(UserError):
    """A corpus cannot be read, or does not match its description."""


class TokenizerError(UserError):
    """A tokenizer cannot be trained or loaded."""


class CacheError(UserError):
    """The token cache cannot be written or read."""
