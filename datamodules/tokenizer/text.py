"""Check that text can be encoded, and format messages on one line."""

from datamodules.errors import TokenizerError


def check_text(text: str, number: int = 0) -> None:
    """Check that a text can be encoded.

    Raises:
        TokenizerError: if the text, which has this number, is not a string or contains a lone surrogate.
    """
    if not isinstance(text, str):
        raise TokenizerError(
            f"text {number} is {type(text).__name__}, not a string", "text", "check the corpus and its column"
        )
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"text {number} has the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}",
            "text that UTF-8 can represent",
            "decode the source again, or replace lone surrogates first",
        ) from error


def one_line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())
