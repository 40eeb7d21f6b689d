"""The limits of the server."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How much the server accepts at once, how long it waits, and what it masks in responses.

    Args:
        allowed_hosts: allowed values of the header `Host`, in addition to `host`, localhost and loopback
            addresses.
        max_body_bytes: the maximum size of a request body.
        max_rows: the maximum number of rows in a request.
        max_text_characters: the maximum length of a text in a row.
        max_waiting_rows: the size of the queue; a request that does not fit gets the status 503.
        max_batch_rows: the maximum number of rows that are predicted or generated together.
        max_connections: the maximum number of simultaneous connections.
        request_timeout_s: the maximum time for an answer, including the time in the queue.
        read_timeout_s: the maximum time a client may take to send the headers, and again the body.
        follow_s: the interval at which the registry is asked whether an alias was moved.
        mask_personal_data: replace e-mail addresses, telephone numbers and the like by their kind.
        masked_patterns: regular expressions whose matches in responses are replaced by `[masked]`.
    """

    allowed_hosts: list[str] = field(default_factory=list)
    max_body_bytes: Count = 1 << 20
    max_rows: Count = 256
    max_text_characters: Count = 100_000
    max_waiting_rows: Count = 1024
    max_batch_rows: Count = 16
    max_connections: Count = 256
    request_timeout_s: Seconds = 120.0
    read_timeout_s: Seconds = 10.0
    follow_s: Seconds = 30.0
    mask_personal_data: bool = False
    masked_patterns: list[str] = field(default_factory=list)
