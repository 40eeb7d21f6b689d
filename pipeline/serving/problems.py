"""Error responses, in the format of OpenAI's interface."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CHOICE = re.compile(r"(function-\w+|list|constrained-\w+|nullable)\[.*\]$|constrained-str$|str$")


class RequestProblem(Exception):  # noqa: N818 - mostly an error of the client, not of the server
    """A request that is answered with an error status.

    Args:
        status: the HTTP status.
        message: the message for the user.
        field: the part of the request that is wrong.
        headers: headers of the response.
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
        """The body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": self.status}}


def queue_full() -> RequestProblem:
    """Return the error for a full queue."""
    return RequestProblem(
        503, "the server is busy: its queue is full; try again later", headers={"Retry-After": "1"}
    )


def of_validation(errors: Sequence[Mapping[str, Any]]) -> RequestProblem:
    """Return the first of pydantic's errors, without the invalid value, which may be a user's text."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body" and not _is_choice(part)]
    if first["type"] == "json_invalid":
        return RequestProblem(400, "the body is not valid JSON", field="body")
    field = ".".join(place) or "body"
    others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return RequestProblem(400, f"{field}: {first['msg']}{others}", field=field)


def _is_choice(part: str | int) -> bool:
    """Return whether pydantic names one of several types of a field rather than a field."""
    return isinstance(part, str) and bool(_CHOICE.match(part))
