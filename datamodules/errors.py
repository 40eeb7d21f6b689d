"""The errors that a user can cause, each in three fields: what was wrong, what was expected, what to do."""


class UserError(Exception):
    """Something the user gave is wrong: two lines, `error:` and `hint:`, no trace, exit code 2.

    Args:
        problem: a clause that says what was wrong, with the value.
        expected: what would have been right, as a noun phrase; empty where the problem says it.
        remedy: what to do, as an imperative; a command or a key in it works when pasted.
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
