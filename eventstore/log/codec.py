"""Event <-> payload bytes: msgpack, zstd with a dictionary that the frame names, perhaps a seal.

Invariants: the same event always gives the same msgpack bytes (they are what is proved);
compression never grows a payload (else it stays raw); a payload is decompressed to exactly
the size its event head states; dictionaries are numbered; one never changes, but may be
dropped, and then its number leads to none for ever.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count, takewhile
from typing import Any, cast

import msgspec
import zstandard

from ..errors import Corruption, EventTooLarge, InvalidEvent, SessionNotFound
from ..events import AnyEvent, Event, MessageAppended
from ..ids import message_id, message_stem
from ..limits import DICTIONARY_BYTES_MAX, EVENT_BYTES_MAX, KIB
from ..messages import Message
from ..upcast import schema_of, upcast
from .format import MESSAGE, RAW, STARTER, TYPES, ZSTD
from .names import Names, PlainNames
from .seal import LOCKED, Seal

COMPRESS_BYTES_MIN = 32
"""Payloads below this stay raw: the saving would be smaller than the cost of reading it."""

TOGETHER_MIN = 4
"""From so many payloads on they are compressed together."""

LEVEL = 3
"""zstd's compression level; higher ones cost more than they save on small payloads."""
WINDOW_LOG = 21
"""2 MiB."""
TABLES_BYTES = 64 * KIB

STATES_SIZE = 0xE0
"""Bits of a zstd frame's first byte, one of which is set where it says how large it gets (RFC 8878,
3.1.1.1.1)."""

SEGMENT_BYTES, SEQUENCE_BYTES = 1_000, 8
"""A dictionary is put together from segments, chosen by how often their sequences come."""
LEARNT_BYTES_A_BYTE = 8
"""What it is made of has so many times its bytes."""


class _StoredMessage(
    msgspec.Struct, tag="MessageAppended", tag_field="type", omit_defaults=True, gc=False
):
    """MessageAppended as it is stored: the message is the caller's object and nothing else."""

    message: dict[str, Any]
    tokens: int = 0


SCHEMA_OF = {code: schema_of(kind.__name__) for code, kind in TYPES.items()}
"""Type code -> the schema number that is written today."""

_PLAIN = PlainNames()
_encode = msgspec.msgpack.Encoder().encode
_decode_message = msgspec.msgpack.Decoder(_StoredMessage).decode
decode_stored = _decode_message
"""Decodes the payload of a message and names nothing: for those who check many."""
_decoders: dict[int, Callable[[bytes], AnyEvent]] = {
    code: cast("Callable[[bytes], AnyEvent]", msgspec.msgpack.Decoder(kind).decode)
    for code, kind in TYPES.items()
    if code != MESSAGE
}


def encode_all(events: Sequence[Event]) -> list[bytes]:
    """Return the canonical payload of each event, at most EVENT_BYTES_MAX bytes each.

    Raises InvalidEvent for what msgpack can't carry, and EventTooLarge.
    """
    try:
        payloads = [
            _encode(_StoredMessage(event.message.fields, event.tokens))
            if type(event) is MessageAppended
            else _encode(event)
            for event in events
        ]
    except (UnicodeEncodeError, OverflowError, TypeError, RecursionError) as error:
        raise InvalidEvent(f"an event can't be stored: {error}") from None
    largest = max(map(len, payloads))
    if largest > EVENT_BYTES_MAX:
        raise EventTooLarge(largest, EVENT_BYTES_MAX)
    return payloads


def decode(code: int, schema: int, payload: bytes, session: str, version: int) -> AnyEvent:
    """Return the event of a payload; `session` and `version` name a message without an id."""
    if schema > SCHEMA_OF[code]:
        raise KeyError(f"schema {schema} of a newer release")
    if schema < SCHEMA_OF[code]:
        payload = _encode(upcast(TYPES[code].__name__, schema, msgspec.msgpack.decode(payload)))
    if code != MESSAGE:
        return _decoders[code](payload)
    return decode_message(payload, session, version)


def decode_message(payload: bytes, session: str, version: int) -> MessageAppended:
    """Return the message of a payload that is written as today."""
    stored = _decode_message(payload)
    fields = stored.message
    given = fields.get("id") or message_id(session, version)
    return MessageAppended(Message(fields, given), stored.tokens)


Unpack = Callable[[bytes, int, bool, bool], bytes]
"""Stored bytes, a size, and twice False (one frame of zstd and nothing behind it) to a payload."""


class _Contexts(threading.local):
    """Each thread's compressors and decompressors, by dictionary number: zstd shares none."""

    def __init__(self) -> None:
        self.compress: dict[int, zstandard.ZstdCompressor] = {}
        self.decompress: dict[int, Unpack] = {}


class Codec:
    """How one log writes what it is told: compression, names and seals; safe for many threads.

    `load(number)` returns a dictionary's bytes, b"" of one that was dropped, or None; `current` is
    the number new payloads are compressed with; `seal` is None where the log is not encrypted.
    """

    def __init__(
        self,
        load: Callable[[int], bytes | None],
        current: int = ZSTD,
        seal: Seal | None = None,
    ) -> None:
        self.current = current
        self.seal = seal
        self._load = load
        self._contexts = _Contexts()

    @property
    def names(self) -> Names:
        """How the log keeps names."""
        return self.seal.names if self.seal else _PLAIN

    @property
    def locked(self) -> bool:
        """True where the log is encrypted and open without its keyring."""
        return self.seal is not None and self.seal.vault is None

    @property
    def trained(self) -> bool:
        """True where the log has a dictionary besides the one it began with."""
        found = map(self._load, count(STARTER + 1))
        return any(takewhile(lambda each: each is not None, found))

    def missing(self, session: str) -> SessionNotFound:
        """Return the error about a name that is not in the log, as far as can be told of it."""
        return SessionNotFound(session, LOCKED if self.locked else "")

    def compress_all(self, payloads: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """Return (dictionary number, stored bytes) of each, raw where compression does not pay."""
        number = self.current
        if number == RAW:
            return [(RAW, payload) for payload in payloads]
        compressor = self._contexts.compress.get(number) or self._compressor(number)
        together = None
        if len(payloads) >= TOGETHER_MIN:
            together = _compressed_together(compressor, payloads)
        packed = []
        for payload in payloads:
            each = payload
            if len(payload) >= COMPRESS_BYTES_MIN:
                each = next(together) if together else compressor.compress(payload)
            packed.append((number, each) if len(each) < len(payload) else (RAW, payload))
        return packed

    def decompress(self, number: int, stored: bytes, size: int) -> bytes:
        """Return the payload of `size` bytes; raises ValueError where the bytes are damaged."""
        payload = stored
        if number != RAW:
            try:
                unpack = self._contexts.decompress.get(number) or self._decompressor(number)
                if not 0 < size <= EVENT_BYTES_MAX or (stored and stored[0] & STATES_SIZE):
                    raise _not_sized(size)
                payload = unpack(stored, size, False, False)  # noqa: FBT003 - see Unpack
            except (zstandard.ZstdError, MemoryError) as error:
                raise ValueError(f"payload can't be decompressed: {error}") from None
        if len(payload) != size:
            raise ValueError(f"payload has {len(payload)} bytes instead of {size}")
        return payload

    def unpacker(self, number: int) -> tuple[Unpack, int]:
        """Return this thread's own way to payloads, and a mask for the first byte of stored ones.

        The caller sees to it that a size is over 0 and no more than EVENT_BYTES_MAX, that the first
        byte has no bit of the mask, since zstd makes room for what a frame states itself, and that
        a payload has its size. What is returned raises zstd's own errors.
        """
        if number == RAW:
            return _as_it_is, 0
        return self._contexts.decompress.get(number) or self._decompressor(number), STATES_SIZE

    def messages(
        self,
        numbers: Sequence[int],
        stored: Sequence[bytes],
        sizes: Sequence[int],
        session: str,
        version: int,
    ) -> list[Message]:
        """Return the messages of payloads of one version after another, all written as today.

        Each step is taken for all of them before the next: so its code stays close to the
        processor, which saves a twentieth. Raises what UNDECODABLE names where one is damaged.
        """
        payloads, stem = self._decompressed(numbers, stored, sizes), message_stem(session)
        return [
            Message(fields := said.message, fields.get("id") or f"{stem}{number}")
            for number, said in enumerate([*map(_decode_message, payloads)], version)
        ]

    def _decompressed(
        self, numbers: Sequence[int], stored: Sequence[bytes], sizes: Sequence[int]
    ) -> list[bytes]:
        """Return the payloads; like decompress(), with a quarter of its calls."""
        if not all(sizes) or max(sizes, default=0) > EVENT_BYTES_MAX:
            raise _not_sized(max(sizes) if all(sizes) else 0)
        payloads: list[bytes] = []
        known, (unpack, stating) = RAW, self.unpacker(RAW)
        try:
            for number, packed, size in zip(numbers, stored, sizes, strict=True):
                if number != known:
                    known, (unpack, stating) = number, self.unpacker(number)
                if packed[0] & stating:
                    raise _not_sized(size)
                payloads.append(unpack(packed, size, False, False))  # noqa: FBT003 - see Unpack
        except (zstandard.ZstdError, IndexError, MemoryError, Corruption) as error:
            raise ValueError(f"payload can't be decompressed: {error}") from None
        if [*map(len, payloads)] != sizes:
            raise ValueError("a payload does not have its size")
        return payloads

    def _compressor(self, number: int) -> zstandard.ZstdCompressor:
        made = zstandard.ZstdCompressor(
            compression_params=_parameters(), dict_data=self._dictionary(number, compress=True)
        )
        self._contexts.compress[number] = made
        return made

    def _decompressor(self, number: int) -> Unpack:
        made = self._contexts.decompress[number] = zstandard.ZstdDecompressor(
            dict_data=self._dictionary(number), format=zstandard.FORMAT_ZSTD1_MAGICLESS
        ).decompress
        return made

    def _dictionary(
        self, number: int, *, compress: bool = False
    ) -> zstandard.ZstdCompressionDict | None:
        if number == ZSTD:
            return None
        raw = self._load(number)
        if not raw:
            raise Corruption(-1, f"compression dictionary {number} is missing")
        made = zstandard.ZstdCompressionDict(raw)
        if compress and not _is_sound(made):
            raise Corruption(-1, f"compression dictionary {number} is none")
        return made


def train(payloads: Sequence[bytes], bytes_max: int = DICTIONARY_BYTES_MAX) -> bytes:
    """Return a dictionary trained on these payloads; raises InvalidEvent if they are too few.

    It is made of segments of one length. Where zstd looks for the best length itself it takes five
    times as long, saves nothing more, and finds too few segments for a large dictionary.
    """
    wanted = sum(map(len, payloads)) // LEARNT_BYTES_A_BYTE
    size = min(max(wanted, SEGMENT_BYTES), bytes_max)
    try:
        return zstandard.train_dictionary(
            size, list(payloads), k=SEGMENT_BYTES, d=SEQUENCE_BYTES, level=LEVEL
        ).as_bytes()
    except zstandard.ZstdError as error:
        raise InvalidEvent(f"{len(payloads)} payloads can't train a dictionary: {error}") from None


def is_dictionary(raw: bytes) -> bool:
    """Return True for bytes that zstd takes for a dictionary."""
    return _is_sound(zstandard.ZstdCompressionDict(raw))


def _is_sound(dictionary: zstandard.ZstdCompressionDict) -> bool:
    """Have zstd take a dictionary apart; return False where it can't."""
    try:
        dictionary.precompute_compress(compression_params=_parameters())
    except zstandard.ZstdError:
        return False
    return True


def _compressed_together(
    compressor: zstandard.ZstdCompressor, payloads: Sequence[bytes]
) -> Iterator[bytes]:
    """Compress those payloads that are large enough in one call.

    It lets go of the GIL once, not each time: where threads compete for it each hand-over costs
    more than a payload's compression.
    """
    large = [each for each in payloads if len(each) >= COMPRESS_BYTES_MIN]
    found = compressor.multi_compress_to_buffer([*large]) if large else ()
    return (found[index].tobytes() for index in range(len(found)))


def _not_sized(size: int) -> ValueError:
    """Return the error for what zstd must not see: it takes 0 for as large as a payload likes."""
    why = "is over the limit, or says so itself" if size else "is none"
    return ValueError(f"payload of {size} bytes {why}")


def _as_it_is(stored: bytes, *_: int) -> bytes:
    return stored


def _parameters() -> zstandard.ZstdCompressionParameters:
    """Bare frames: size, checksum and dictionary are in the event head already.

    Tables for payloads that are no larger stay in the processor's cache, which saves a
    tenth of the time for 2 bytes in 200. The window is that of large payloads: what one repeats is
    found however far apart it stands.
    """
    return zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=TABLES_BYTES,
        dict_size=TABLES_BYTES,
        window_log=WINDOW_LOG,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
