"""Text that can be encoded, and messages on one line."""

from datamodules.errors import TokenizerError


def check_text(text: str, number: int = 0) -> None:
    """Refuse what is not encodable text.

    Raises:
        TokenizerError: text number `number` is not a string or holds a lone surrogate.
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
            "text that UTF-8 can hold",
            "decode the source again, or replace lone surrogates before",
        ) from error


def one_line(error: Exception) -> str:
    """The message without line ends."""
    return " ".join(str(error).split())
