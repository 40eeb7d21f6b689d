"""What a client is told when a request cannot be answered: one form, that of OpenAI's interface."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CHOICE = re.compile(r"(function-\w+|list|constrained-\w+|nullable)\[.*\]$|constrained-str$|str$")


class RequestProblem(Exception):  # noqa: N818 - most are the client's, and no error of ours
    """A request that is answered with a status other than 200.

    Args:
        status: of HTTP.
        message: for a person.
        field: the part of the request that is wrong.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.status}}


def queue_full() -> RequestProblem:
    """Too much is waiting already."""
    return RequestProblem(
        503, "the server is busy: its queue is full; try again later", headers={"Retry-After": "1"}
    )


def of_validation(errors: Sequence[Mapping[str, Any]]) -> RequestProblem:
    """The first of pydantic's errors, without the value that was given: it may be a text of somebody."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body" and not _is_choice(part)]
    if first["type"] == "json_invalid":
        return RequestProblem(400, "the body is not valid JSON", field="body")
    field = ".".join(place) or "body"
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return RequestProblem(400, f"{field}: {first['msg']}{others}", field=field)


def _is_choice(part: str | int) -> bool:
    """Whether pydantic means one of several types of a field, and no field."""
    return isinstance(part, str) and bool(_CHOICE.match(part))
