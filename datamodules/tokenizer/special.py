"""The ids that are the same in every trained tokenizer: special tokens, followed by the 256 bytes."""

N_SENTINELS = 32

SPECIAL_TOKENS: tuple[str, ...] = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<mask>",
    "<sep>",
    "<cls>",
    "<user>",
    "<assistant>",
    "<system>",
    *(f"<extra_{number}>" for number in range(N_SENTINELS)),
)
"""The table of special tokens; the index of a token is its id."""

ROLES = ("pad", "bos", "eos", "unk", "mask", "sep", "cls")
"""The roles of special tokens; the token of a role is its name in angle brackets."""

N_SPECIAL_TOKENS = len(SPECIAL_TOKENS)
N_BYTES = 256


def _byte_alphabet() -> tuple[str, ...]:
    """Return the printable character that represents each byte in a byte-level vocabulary.

    Printable bytes represent themselves; the others are mapped, in order, to the characters from U+0100 on.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.2.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unprintable = [byte for byte in range(N_BYTES) if byte not in printable]
    return tuple(
        chr(byte) if byte in printable else chr(0x100 + unprintable.index(byte)) for byte in range(N_BYTES)
    )


BYTE_ALPHABET = _byte_alphabet()
"""The character at index b represents byte b in every vocabulary."""

BYTE_OF_CHARACTER = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}

CONTINUES = "\uff03\uff03"
"""Prefix of WordPiece's continuing pieces. It looks like BERT's `##`, but does not represent bytes, so that
the piece `##a` (two hashes and an a, at the start of a word) and the continuing piece `a` stay different."""
