"""The limits of the server, and who may ask it."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How much the server takes on at once, how long it waits, and what it keeps out of answers.

    Args:
        allowed_hosts: further names by which the server may be called (the header `Host`), beside `host`,
            localhost and the addresses of this machine's loopback.
        max_body_bytes: of a request.
        max_rows: of a request.
        max_text_characters: of one text of a row.
        max_waiting_rows: rows that wait; a request that finds no room is answered 503.
        max_batch_rows: rows that are answered, or written, together.
        max_connections: at the same time.
        request_timeout_s: how long an answer may take, the wait included.
        read_timeout_s: how long a client may take to send the head of a request, and again its body.
        follow_s: how often the registry is asked whether an alias was moved.
        mask_personal_data: replace e-mail addresses, telephone numbers and such in answers by their kind.
        masked_patterns: regular expressions; what matches in an answer is replaced by `[masked]`.
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
