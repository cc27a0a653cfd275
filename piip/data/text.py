"""Text that people and their tools wrote, read in one way."""

import json
from pathlib import Path

from piip.data.packed import content_of
from piip.data.sources import DataError


def read_text(path: Path, what: str = "file") -> str:
    """The text of an annotation file or a list of names, in any of Unicode's encodings, without its byte order mark.

    Everything that reads such files reads them here: a file means the same to all.

    Args:
        path: The file.
        what: In messages.

    Raises:
        DataError: It is not there, or is no text.
    """
    packed = content_of(path)
    if packed is None and not path.is_file():
        raise DataError(f"{what} not found: {path}")
    return decoded(path.read_bytes() if packed is None else bytes(packed), path)


def decoded(content: bytes, path: Path) -> str:
    """The text of a file's bytes, as `read_text` gives it.

    Raises:
        DataError: It is no text.
    """
    try:
        # by the byte order mark, or by the zeros among the first four bytes
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8 ({error}; the file has {len(content)} bytes)") from None


def is_text(value: object) -> bool:
    """Whether it is a string that can be written anywhere: no half of a character, no zero byte."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
