"""What the first bytes of a file say: whether it is a pickle, a text, or nothing that is known."""

from __future__ import annotations

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.errors import BadInput

UNKNOWN_FORMAT = "has an unknown format"


def begins_pickle(head: bytes) -> bool:
    """Whether bytes begin as pickles since protocol 2 do, with its number."""
    return len(head) > 1 and head[0] == 0x80 and head[1] <= 5


def looks_pickled(head: bytes) -> bool:
    """Whether bytes could begin a pickle."""
    return begins_pickle(head) or (len(head) > 1 and head[0] in b"(]}c")


def reads_as_text(head: bytes) -> bool:
    """Whether bytes have hardly any control characters."""
    return b"\0" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) * 20 < len(head)


def why_unread(source: ByteSource, head: bytes, source_text: bool) -> str:
    """Why nothing can be said of a file; empty for formats that hold numbers, texts and no code."""
    from modelprobe.checkpoint.recognise import Kind, recognise

    try:
        pickled = recognise(source) is Kind.PICKLE and not source_text
    except BadInput as error:
        if reads_as_text(head) and "LFS" not in error.message and "web page" not in error.message:
            return ""
        return error.message.removeprefix(f"{source.name} ")
    return "its bytes are of no known format" if pickled else ""
