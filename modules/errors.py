"""The error that modules raise for invalid arguments."""


class ArgumentError(ValueError):
    """An argument is outside of what a class or function supports.

    Args:
        problem: a clause that names the argument and its value.
        expected: the supported values, as a noun phrase.
        remedy: what to do, as an imperative.
    """

    def __init__(self, problem: str, expected: str, remedy: str) -> None:
        super().__init__(problem, expected, remedy)
        self.problem = problem
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; expected {self.expected}\nhint: {self.remedy}"
