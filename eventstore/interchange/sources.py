"""Files of others: read in bounded steps, decoded, and refused in one clear sentence.

Invariants: whatever can't be read or decoded is InvalidEvent and names the file and the place;
a line or a document over its limit is refused before it is decoded; JSON is decoded as written:
no NaN, no second value behind the first, no lone surrogate.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TypeVar

import msgspec

from ..errors import InvalidEvent
from ..limits import MIB

LINE_BYTES_MAX = 64 * MIB
"""One line of JSON lines: an event at its limit, every character of it escaped."""

DOCUMENT_BYTES_MAX = 512 * MIB
"""One JSON document, which must be in memory as a whole; longer input comes as JSON lines."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""How ZIP, gzip and zstd begin."""

Top = dict[str, msgspec.Raw] | list[msgspec.Raw]
"""The outermost value of a document, what is in it not decoded yet."""

T = TypeVar("T")


def decoded(raw: bytes | msgspec.Raw, where: str, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the decoded value; raises InvalidEvent that starts with `where`."""
    try:
        return decoder.decode(raw)
    except UnicodeDecodeError:
        raise InvalidEvent(f"{where} is not UTF-8") from None
    except RecursionError:
        raise InvalidEvent(f"{where} is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"{where} has an unexpected shape: {error}") from None
    except msgspec.DecodeError as error:
        raise InvalidEvent(f"{where} is not JSON: {_reason(raw, error)}") from None


def _reason(raw: bytes | msgspec.Raw, error: msgspec.DecodeError) -> str:
    try:
        bytes(raw).decode()
    except UnicodeDecodeError as undecodable:
        return f"not UTF-8 either, at byte {undecodable.start}"
    return str(error).removeprefix("JSON is malformed: ")


top_decoder: msgspec.json.Decoder[Top] = msgspec.json.Decoder(Top)
"""Decodes no more than the outermost value."""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if path.exists() and not path.is_file():
            raise InvalidEvent(f"{path} is no regular file")
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InvalidEvent(f"{path} can't be read: {error.strerror}") from None


def read_document(path: Path) -> bytes:
    """Return a whole file, at most DOCUMENT_BYTES_MAX bytes."""
    with _opened(path) as file:
        content = file.read(DOCUMENT_BYTES_MAX + 1)
    if len(content) > DOCUMENT_BYTES_MAX:
        raise InvalidEvent(
            f"{path.name} has more than {DOCUMENT_BYTES_MAX} bytes; bring it as JSON lines instead"
        )
    return content.removeprefix(_BYTE_ORDER_MARK)


class Lines:
    """The lines of a file, from the start each time they are iterated over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[bytes]:
        with _opened(self.path) as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_BYTES_MAX:
                    raise InvalidEvent(
                        f"{self.path.name} line {number} has more than {LINE_BYTES_MAX} bytes"
                    )
                yield line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Iterate over the lines that are not blank, with their numbers from 1."""
    return ((number, line) for number, line in enumerate(lines, 1) if not line.isspace())


def first_values(path: Path) -> tuple[Top | None, bool]:
    """Return the value on the first line, if it is whole there, and whether more lines follow.

    A document may be longer than a line may be, though it stands on one.
    """
    if _is_long_line(path):
        return None, False
    start = list(islice(numbered(Lines(path)), 2))
    if not start or not start[0][1]:
        raise InvalidEvent(f"{path.name} is empty")
    if start[0][1].startswith(_PACKED):
        raise InvalidEvent(f"{path} is an archive; unpack it, and import the JSON files out of it")
    try:
        return decoded(start[0][1], str(path), top_decoder), len(start) > 1
    except InvalidEvent:
        return None, len(start) > 1


def _is_long_line(path: Path) -> bool:
    """Return True for a file of one line that is over the limit of a line among others."""
    with _opened(path) as file:
        if len(file.readline(LINE_BYTES_MAX + 1)) <= LINE_BYTES_MAX:
            return False
        file.readline(DOCUMENT_BYTES_MAX)
        return not file.read(1)


@contextmanager
def repeatable(lines: Iterable[bytes]) -> Iterator[Iterable[bytes]]:
    """Give lines that can be read twice: those of a one-shot iterator go to a temporary file."""
    if iter(lines) is not lines:
        yield lines
        return
    with TemporaryFile() as file:
        for line in lines:
            file.write(line if line.endswith(b"\n") else line + b"\n")
        yield _Kept(file)


class _Kept:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        return iter(self._file)
