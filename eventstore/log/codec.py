"""Event <-> payload bytes: msgpack, then zstd with a dictionary that the frame names.

Invariants: the same event always gives the same msgpack bytes (they are what is proved);
compression never grows a payload (else it stays raw); a payload is decompressed to exactly
the size its event head states; dictionaries are numbered and never change.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zstandard

from ..errors import Corruption, EventTooLarge, InvalidEvent
from ..events import AnyEvent, Event, MessageAppended
from ..ids import message_id
from ..limits import DICTIONARY_BYTES_MAX, EVENT_BYTES_MAX
from ..messages import Message
from ..upcast import schema_of, upcast
from .format import MESSAGE, RAW, TYPE_CODES, TYPES, ZSTD

COMPRESS_BYTES_MIN = 32
"""Payloads below this stay raw: the saving would be smaller than the cost of reading it."""

LEVEL = 3
"""zstd's compression level; higher ones cost more than they save on small payloads."""


class _StoredMessage(msgspec.Struct, tag="MessageAppended", tag_field="type", omit_defaults=True):
    """MessageAppended as it is stored: the message is the caller's object and nothing else."""

    message: dict[str, Any]
    tokens: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(_StoredMessage).decode
_decoders = {
    code: msgspec.msgpack.Decoder(kind).decode for code, kind in TYPES.items() if code != MESSAGE
}


def encode(event: Event) -> bytes:
    """Return the canonical payload of an event, at most EVENT_BYTES_MAX bytes.

    Raises InvalidEvent for what msgpack can't carry and EventTooLarge.
    """
    stored: Any = event
    if type(event) is MessageAppended:
        stored = _StoredMessage(event.message.fields, event.tokens)
    try:
        payload = _encode(stored)
    except (UnicodeEncodeError, OverflowError, TypeError, RecursionError) as error:
        raise InvalidEvent(f"{type(event).__name__} can't be stored: {error}") from None
    if len(payload) > EVENT_BYTES_MAX:
        raise EventTooLarge(len(payload), EVENT_BYTES_MAX)
    return payload


def decode(code: int, schema: int, payload: bytes, session: str, version: int) -> AnyEvent:
    """Return the event of a payload; `session` and `version` name a message without an id."""
    kind = TYPES[code]
    if schema != schema_of(kind.__name__):
        plain = upcast(kind.__name__, schema, msgspec.msgpack.decode(payload))
        payload = _encode(plain)
    if code != MESSAGE:
        return _decoders[code](payload)  # type: ignore[no-any-return]
    stored = _decode_message(payload)
    given = stored.message.get("id") or message_id(session, version)
    return MessageAppended(Message(stored.message, given), stored.tokens)


def type_code(event: Event) -> int:
    """Return the number that stands for the event's type on disk."""
    return TYPE_CODES[type(event)]


class Codec:
    """Compression with numbered dictionaries; safe for many threads.

    `load(number)` returns a dictionary's bytes or None; `current` is the number new payloads
    are compressed with.
    """

    def __init__(self, load: Callable[[int], bytes | None], current: int = ZSTD) -> None:
        self.current = current
        self._load = load
        self._local = threading.local()  # zstd contexts must not be shared between threads

    def compress(self, payload: bytes) -> tuple[int, bytes]:
        """Return (dictionary number, stored bytes), raw where compression does not pay."""
        if len(payload) < COMPRESS_BYTES_MIN:
            return RAW, payload
        number = self.current
        stored = self._compressor(number).compress(payload)
        return (number, stored) if len(stored) < len(payload) else (RAW, payload)

    def decompress(self, number: int, stored: bytes, size: int) -> bytes:
        """Return the payload of `size` bytes; raises ValueError where the bytes are damaged."""
        if number == RAW:
            payload = stored
        else:
            try:
                payload = self._decompressor(number).decompress(stored, max_output_size=size)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        if len(payload) != size:
            raise ValueError(f"payload has {len(payload)} bytes instead of {size}")
        return payload

    def _compressor(self, number: int) -> zstandard.ZstdCompressor:
        made = self._local.__dict__.get(number)
        if made is None:
            made = self._local.__dict__[number] = zstandard.ZstdCompressor(
                compression_params=_parameters(), dict_data=self._dictionary(number, compress=True)
            )
        return made

    def _decompressor(self, number: int) -> zstandard.ZstdDecompressor:
        made = self._local.__dict__.get(-number)
        if made is None:
            made = self._local.__dict__[-number] = zstandard.ZstdDecompressor(
                dict_data=self._dictionary(number), format=zstandard.FORMAT_ZSTD1_MAGICLESS
            )
        return made

    def _dictionary(
        self, number: int, *, compress: bool = False
    ) -> zstandard.ZstdCompressionDict | None:
        if number == ZSTD:
            return None
        raw = self._load(number)
        if raw is None:
            raise Corruption(-1, f"compression dictionary {number} is missing")
        made = zstandard.ZstdCompressionDict(raw)
        if compress:
            made.precompute_compress(compression_params=_parameters())
        return made


def train(payloads: Sequence[bytes], bytes_max: int = DICTIONARY_BYTES_MAX) -> bytes:
    """Return a dictionary trained on these payloads; raises InvalidEvent if they are too few."""
    try:
        return zstandard.train_dictionary(bytes_max, payloads, level=LEVEL).as_bytes()
    except zstandard.ZstdError as error:
        raise InvalidEvent(f"{len(payloads)} payloads can't train a dictionary: {error}") from None


def _parameters() -> zstandard.ZstdCompressionParameters:
    """Bare frames: size, checksum and dictionary are in the event head already."""
    return zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
