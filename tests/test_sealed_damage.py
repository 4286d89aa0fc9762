"""Damaged encrypted stores: a changed bit, a moved payload and a wrong key are each named."""

from pathlib import Path

import pytest
from driver import START
from facts import said, told
from tampering import tables
from xxhash import xxh3_64_intdigest

from eventstore import (
    ANY,
    Corruption,
    EventStore,
    EventStoreError,
)
from eventstore import events as ev
from eventstore.audit.verify import verify, verify_directory
from eventstore.ids import SYSTEM
from eventstore.log.base import Append, key_of
from eventstore.log.codec import Codec
from eventstore.log.draft import draft
from eventstore.log.format import (
    CHECKSUM,
    CHECKSUM32,
    EVENT_HEAD,
    FRAME_HEAD_BYTES,
    FRAMES,
    POSITION,
)
from eventstore.log.frame import Frame

# -- damage ----------------------------------------------------------------------------------


def resealed(raw: bytes, last: int, index: int, change) -> bytes:
    """Return a frame with one event's head and body changed, and all checksums made good."""
    frame = Frame(raw, last, Codec({}.get))
    heads, bodies, end = [], [], 0
    for each in range(frame.count):
        row, body = frame.stored(each)
        head = list(row[:-1])
        if each == index:
            head, body = change(head, bytearray(body))
        end += len(body)
        head[0] = end
        packed = EVENT_HEAD.pack(*head)
        checksum = xxh3_64_intdigest(packed + bytes(body)) & 0xFFFFFFFF
        heads.append(packed + CHECKSUM32.pack(checksum))
        bodies.append(bytes(body))
    covered = raw[CHECKSUM.size : FRAME_HEAD_BYTES] + b"".join(heads) + frame.names
    checksum = CHECKSUM.pack(xxh3_64_intdigest(covered, frame.position))
    return checksum + covered + b"".join(bodies)


def tampered(place: Path, position: int, change, index: int = 0) -> None:
    """Change one event of the frame that ends at a position, as one who knows the checksums."""
    with tables(place) as opened:
        key = POSITION.pack(position)
        opened.put(FRAMES, key, resealed(opened.get(FRAMES, key), position, index, change))


def flipped(bit: int):
    """Return a change of one bit of the body."""

    def change(head, body):
        body[bit // 8 % len(body)] ^= 1 << bit % 8
        return head, body

    return change


def retold(field: int, value: int):
    """Return a change of one number in the event head."""

    def change(head, body):
        head[field] = value
        return head, body

    return change


CHANGES = {
    "commitment": flipped(3),
    "key id": flipped(8 * 32 + 60),
    "nonce": flipped(8 * 40),
    "ciphertext": flipped(8 * 60),
    "tag": flipped(-1),
    "size": retold(1, 7),
    "tokens": retold(2, 99),
    "type": retold(3, 22),
    "role": retold(6, 4),
    "dictionary": retold(7, 1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_one_changed_bit_is_found(tmp_path, keyring, what):
    """Whatever is changed of a sealed event, checksums made good: readers and verify name it."""
    place = tmp_path / "history"
    with EventStore.open(place, keyring=keyring) as store:
        store.create("a")
        position = store.append("a", {"role": "user", "content": "hello there, " * 9}).position
        store.append("a", {"content": "x"})
    tampered(place, position, CHANGES[what])
    report = verify_directory(place, keyring=keyring)
    assert report.findings, what
    if what != "commitment":
        assert any(found.position == position for found in report.findings), told(report)
        with EventStore.open(place, keyring=keyring) as store, pytest.raises(EventStoreError):
            _ = store.event(position).event
    if what not in ("size", "tokens", "role", "dictionary"):  # what the tag alone covers
        assert verify_directory(place).findings, what


def test_a_body_moved_to_another_session_does_not_open(tmp_path, keyring):
    """A sealed payload is bound to its session and head: moved elsewhere, it is damage."""
    place = tmp_path / "history"
    with EventStore.open(place, keyring=keyring) as store:
        for name in "ab":
            store.create(name)
        own = [store.append(name, {"content": f"of {name}"}).position for name in "aab"]
        bodies = {p: store.event(p).frame.stored(0)[1] for p in own}

    def put(position):
        return lambda head, _: (head, bytearray(bodies[position]))

    tampered(place, own[0], put(own[2]))
    with EventStore.open(place, keyring=keyring) as store:
        with pytest.raises(Corruption, match="changed or moved"):
            _ = store.event(own[0]).event
        assert store.event(own[1]).event.message.content == "of a"
    assert f"position {own[0]}" in told(verify_directory(place, keyring=keyring))
    assert f"position {own[0]}: key" in told(verify_directory(place))


# -- verify, evidence, copies ----------------------------------------------------------------


def test_verify_names_a_wrong_key(tmp_path, keyring):
    """An event sealed with a key that is not its session's, or named by no fact, is found."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as store:
        vault, codec = store.log.codec.seal.vault, store.log.codec
        store.create("a")
        stray, _ = vault.fresh()
        work = [
            draft("a", [said("x")], codec, bytes(16), key=stray),
            draft("b", [ev.SessionCreated()], codec, bytes(16), key=stray),
            draft(SYSTEM, [ev.KeyCreated(key_of(store.log, "a"), "00" * 32)], codec, bytes(16)),
        ]
        for made in work:
            store.log.commit([Append((made,), (ANY,))], START)
        found = told(verify(store))
    assert f"position 4: key {stray:016x} sealed it instead of" in found
    assert f"position 5: no fact in the system stream names its key {stray:016x}" in found
    assert "position 6: the keyring's key" in found
