"""Error responses, in the format of OpenAI's interface."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CHOICE = re.compile(r"(function-\w+|list|constrained-\w+|nullable)\[.*\]$|constrained-str$|str$")


#: Messages for pydantic's types of errors, where its own are about Python.
_PHRASES = {
    "missing": "this field is required",
    "extra_forbidden": "this field is unknown",
    "string_type": "expected a text",
}


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


def not_json() -> RequestProblem:
    """Return the error for a body that was not sent as JSON."""
    return RequestProblem(
        400, "Content-Type: expected application/json, and JSON in the body", field="Content-Type"
    )


def of_validation(errors: Sequence[Mapping[str, Any]]) -> RequestProblem:
    """Return the first of pydantic's errors, without the invalid value, which may be a user's text."""
    fields = [_field(error) for error in errors]
    of_first = [error for error, field in zip(errors, fields, strict=True) if field == fields[0]]
    # For a field with several types, pydantic reports an error for each; the most specific is no type error.
    first = next((error for error in of_first if not error["type"].endswith("_type")), of_first[0])
    if first["type"] == "json_invalid":
        return RequestProblem(400, "the body is not valid JSON", field="body")
    others = f" (and {n} more)" if (n := len({*fields}) - 1) else ""
    said = _PHRASES.get(first["type"]) or first["msg"].replace(" after validation", "")
    return RequestProblem(400, f"{fields[0]}: {said}{others}", field=fields[0])


def _field(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "body" and not _is_choice(part)) or "body"


def _is_choice(part: str | int) -> bool:
    """Return whether pydantic names one of several types of a field rather than a field."""
    return isinstance(part, str) and bool(_CHOICE.match(part))
