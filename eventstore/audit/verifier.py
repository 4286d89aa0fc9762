"""A verifier to read in one sitting: checks what a store hands out, and trusts none of its code.

    python verifier.py --key KEY FILE...          (or python -m eventstore.audit.verifier)

KEY is a verifier key, `name+id+base64`, or a file with one; it signs heads of its own name only.
FILE is a signed head, a key rotation, a tlog-proof, a consistency proof, a disclosure, a session
bundle or a directory of tiles, as docs/integrity.md draws them. Exit 0: all is proven; 1: some is
not, and its line says why; 2: could not be checked. Files are taken in order: a rotation admits its
new key for those behind it; a bundle behind the tiles of the same head must be complete; heads of
one size must be equal. It needs Python 3.11 and `cryptography`, and hashes as RFC 6962 defines it.
"""

import argparse
import base64
import json
import re
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
except ImportError:
    sys.stderr.write("the package `cryptography` is needed\n")
    sys.exit(2)

FILE_BYTES_MAX, LINE_BYTES_MAX = 16 << 20, 1 << 20
SIZE_MAX = (1 << 63) - 1


class Rejected(ValueError):
    """It is not proven, as with every other ValueError of what can't even be decoded."""


def require(holds: object, why: str) -> None:
    """Reject unless it holds."""
    if not holds:
        raise Rejected(why)


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 || entry)."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right)."""
    return sha256(b"\1" + left + right).digest()


def split(size: int) -> int:
    """Return the largest power of two smaller than `size`: the leaves on the left."""
    return 1 << (size - 1).bit_length() - 1


def root_of(hashes: list[bytes]) -> bytes:
    """Return the root over nodes of one level; the last one may stand for fewer leaves."""
    if len(hashes) <= 1:
        return hashes[0] if hashes else sha256(b"").digest()
    left = split(len(hashes))
    return node_hash(root_of(hashes[:left]), root_of(hashes[left:]))


def root_with(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to (2.1.1)."""
    require(0 <= index < size, f"there is no event {index} among {size}")
    require(bool(proof) == (size > 1), "the proof has another length")
    if size == 1:
        return leaf
    left = split(size)
    if index < left:
        return node_hash(root_with(leaf, index, left, proof[:-1]), proof[-1])
    return node_hash(proof[-1], root_with(leaf, index - left, size - left, proof[:-1]))


def roots_with(old: int, new: int, proof: list[bytes], known: bytes | None) -> tuple[bytes, bytes]:
    """Return both roots that a consistency proof leads to (2.1.2); the old one may be known."""
    require(0 < old <= new, f"no proof leads from {old} events to {new}")
    if old == new:
        require(len(proof) == (known is None), "the proof has another length")
        return known or proof[0], known or proof[0]
    require(proof, "the proof has another length")
    left = split(new)
    if old <= left:
        was, now = roots_with(old, left, proof[:-1], known)
        return was, node_hash(now, proof[-1])
    was, now = roots_with(old - left, new - left, proof[:-1], None)
    return node_hash(proof[-1], was), node_hash(proof[-1], now)


def unbase64(text: object, size: int | None = None) -> bytes:
    """Decode base64 of the one canonical form, of `size` bytes if given."""
    raw = base64.b64decode(str(text), validate=True)
    require(base64.b64encode(raw).decode() == text, "bad base64")
    require(size in {None, len(raw)}, f"{len(raw)} bytes instead of {size}")
    return raw


def number(text: str) -> int:
    """Read a decimal without leading zeros."""
    require(re.fullmatch("0|[1-9][0-9]{0,18}", text) and int(text) <= SIZE_MAX, "a bad number")
    return int(text)


def lines_of(raw: bytes) -> list[str]:
    """Return the lines of UTF-8 text without other control characters."""
    require(not re.search(rb"[\x00-\x09\x0b-\x1f]", raw), "the text holds control characters")
    return raw.decode().split("\n")


class Key(NamedTuple):
    """A verifier key: `name+id+base64(0x01 || public key)`."""

    name: str
    id: bytes
    public: bytes

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read a key, whose id must be that of its name and bytes."""
        name, key_id, encoded = [*text.split("+", 2), "", ""][:3]
        public = unbase64(encoded, 33)
        due = sha256(name.encode() + b"\n" + public).digest()[:4]
        require(re.fullmatch(r"[^\s+]+", name) and public[0] == 1, "a bad key")
        require(key_id == due.hex(), "the key's id is not that of its bytes")
        return cls(name, due, public[1:])


class Head(NamedTuple):
    """A signed tree head."""

    origin: str
    size: int
    root: bytes


Chains = dict[bytes, tuple[int, int]]
"""The newest version of each session and its position, by the session's digest."""


class Auditor:
    """What is known so far: keys and the largest size they sign for, heads, sessions in tiles."""

    def __init__(self, keys: list[Key]) -> None:
        self.keys = {key[:2]: (key, SIZE_MAX) for key in keys}
        self.roots: dict[tuple[str, int], bytes] = {}
        self.tiles: dict[Head, Chains] = {}

    def note(self, raw: bytes) -> tuple[list[str], list[Key]]:
        """Return a note's lines and the known keys that signed it."""
        text, _, signatures = raw.rpartition(b"\n\n")
        *lines, last = lines_of(signatures)
        require(text and 0 < len(lines) <= 16 and not last, "it is no signed note")  # noqa: PLR2004
        signed, seen = [], set()
        for line in lines:
            require(re.fullmatch(r"— [^\s+]+ \S+", line), "a bad signature line")
            _, name, encoded = line.split(" ")
            name_and_id, signature = (name, unbase64(encoded)[:4]), unbase64(encoded)[4:]
            require(signature and name_and_id not in seen, "an empty or repeated signature")
            seen.add(name_and_id)
            if name_and_id in self.keys:
                signed.append(self.keys[name_and_id][0])
                try:
                    public = Ed25519PublicKey.from_public_bytes(signed[-1].public)
                    public.verify(signature, text + b"\n")
                except (InvalidSignature, ValueError):
                    raise Rejected(f"the signature of {name!r} is wrong") from None
        require(signed, "no known key signed it; rotations go before what their keys signed")
        return lines_of(text), signed

    def head(self, raw: bytes) -> Head:
        """Return the head in a checkpoint, signed by a key of its origin."""
        lines, signed = self.note(raw)
        require(len(lines) == 3, "a checkpoint has exactly three lines")  # noqa: PLR2004
        head = Head(lines[0], number(lines[1]), unbase64(lines[2], 32))
        until = [self.keys[key[:2]][1] for key in signed if key.name == head.origin]
        require(until, "no key of its origin signed the head")
        require(max(until) >= head.size, "its key was replaced before that size")
        known = self.roots.setdefault(head[:2], head.root)
        require(known == head.root, f"there are two heads of {head.size} events: a split view")
        return head

    def rotation(self, raw: bytes) -> str:
        """Admit a new key that the old one names; both sign."""
        lines, (old, *_) = self.note(raw)
        require(len(lines) == 4 and lines[1] == old.name, "a bad rotation")  # noqa: PLR2004
        size, new = number(lines[2]), Key.parse(lines[3])
        require(new.name == old.name and new != old, "a rotation keeps the name")
        require(self.keys[old[:2]][1] == SIZE_MAX, "the key was replaced before")
        Auditor([new]).note(raw)
        self.keys |= {old[:2]: (old, size), new[:2]: (new, SIZE_MAX)}
        return f"after {size} events {old.name!r} signs with key {new.id.hex()}"


ENTRY = struct.Struct(">BBHHHqQQQ32s32s32s32s32s32s")
TILE = 256


class Entry(NamedTuple):
    """What a leaf hashes about one event; docs/format.md draws its 232 bytes."""

    kind: int
    version: int
    previous: int
    recorded_at: int
    names: tuple[bytes, ...]
    payload: bytes

    @classmethod
    def parse(cls, raw: bytes) -> "Entry":
        """Take an entry apart."""
        require(len(raw) == ENTRY.size and raw[0] == 1, "an entry of an unknown format")
        _, _, kind, _, _, _, version, previous, recorded, *digests, payload, _ = ENTRY.unpack(raw)
        return cls(kind, version, previous - 1, recorded, tuple(digests), payload)

    def follow(self, chains: Chains, index: int) -> None:
        """Check that it goes on where its session was: nothing missing, nothing reordered."""
        version, position = chains.get(self.names[0], (-1, -1))
        what = f"event {index} should be version {version + 1} of its session, after {position}"
        require(self[1:3] == (version + 1, position) and position < index, what)
        chains[self.names[0]] = self.version, index


def digest(kind: str, name: object) -> bytes:
    """Return what stands for a name in an entry."""
    require(name is None or type(name) is str, "a name is a string")
    tagged = f"eventstore/{kind}/1\0{name}".encode()
    return bytes(32) if name is None else sha256(tagged).digest()


def located(found: dict[str, Any], head: Head) -> tuple[Entry, str]:
    """Return an entry that is at its index under a head, and what to say of it."""
    raw, index = unbase64(found["entry"]), found["index"]
    proof = [unbase64(each, 32) for each in found["proof"]]
    root = root_with(leaf_hash(raw), index, head.size, proof)
    require(root == head.root, f"the proof of event {index} leads to another root")
    entry = Entry.parse(raw)
    when = datetime.fromtimestamp(entry.recorded_at / 1e9, UTC).isoformat()
    what = f"event {index} of {head.size} of {head.origin!r}"
    return entry, f"{what}: type {entry.kind}, version {entry.version}, recorded {when}"


def tlog_proof(auditor: Auditor, raw: bytes) -> str:
    """Check C2SP's tlog-proof, whose extra data is the entry."""
    top, _, note = raw.partition(b"\n\n")
    _, extra, index, *hashes = [*lines_of(top), "", ""]
    require(extra.startswith("extra ") and index.startswith("index "), "a bad proof")
    found = {"index": number(index[6:]), "entry": extra[6:], "proof": hashes[:-2]}
    return located(found, auditor.head(note))[1]


def consistency(auditor: Auditor, raw: bytes) -> str:
    """Check that the second of two heads only added to the first."""
    top, *parts = raw.split(b"\n\n")
    require(len(parts) == 4, "a consistency proof has two heads")  # noqa: PLR2004 - two halves each
    old = auditor.head(b"\n\n".join(parts[:2]) + b"\n")
    new = auditor.head(b"\n\n".join(parts[2:]))
    require(old.origin == new.origin, "the heads are of two origins")
    proof = [unbase64(each, 32) for each in lines_of(top)[1:]]
    roots = roots_with(old.size, new.size, proof, old.root)
    require(roots == (old.root, new.root), "the proof leads to other roots")
    return f"{new.origin!r} grew from {old.size} to {new.size} events and changed none"


def fields(line: bytes, **types: type) -> dict[str, Any]:
    """Read an object that has exactly these fields, written in exactly one way."""
    found = json.loads(line)
    again = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    require(again == line and type(found) is dict, "JSON of another form")
    require([(k, type(v)) for k, v in found.items()] == list(types.items()), "other fields")
    return dict(found)


def disclosure(auditor: Auditor, raw: bytes) -> str:
    """Check one event's payload and names against its entry, and show them."""
    types = {"format": str, "index": int, "entry": str, "proof": list, "salt": str, "payload": str}
    found = fields(raw, **types, names=list, checkpoint=str)
    entry, said = located(found, auditor.head(found["checkpoint"].encode()))
    payload, names = unbase64(found["payload"]), found["names"]
    made = sha256(b"eventstore/payload/1\0" + unbase64(found["salt"], 16) + payload).digest()
    require(made == entry.payload, "it is another payload")
    if names:
        digests = (digest("session", names[0]), *(digest("name", name) for name in names[1:]))
        require(digests == entry.names, "other names")
    return f"{said}\n     {names!a}\n     {payload.decode(errors='replace').replace('�', ' ')!r}"


def session(auditor: Auditor, lines: Iterator[bytes]) -> str:
    """Check that a bundle holds every entry of a session from version 0 on."""
    bundle = fields(next(lines), format=str, session=str, events=int, checkpoint=str)
    head = auditor.head(bundle["checkpoint"].encode())
    name, chains = digest("session", bundle["session"]), Chains()
    for line in lines:
        found = fields(line, index=int, entry=str, proof=list)
        entry, _ = located(found, head)
        require(entry.names[0] == name, f"event {found['index']} is of another session")
        entry.follow(chains, found["index"])
    last = chains.get(name, (-1, -1))
    require(0 <= last[0] == bundle["events"] - 1, "it has another number of events than it says")
    known = auditor.tiles.get(head)
    require(known is None or known.get(name) == last, "the tiles hold other events of the session")
    end = "the tiles can tell if there are more" if known is None else "and no more"
    alike = "" if bundle["session"].isascii() else f" ({bundle['session']!a})"
    return f"session {bundle['session']!r}{alike} has versions 0 to {last[0]}; {end}"


def tile_name(first: int, count: int) -> str:
    """Return the end of the path of the tile that begins at a node of a level of `count`."""
    digits = str(first // TILE)
    digits = digits.zfill(len(digits) + -len(digits) % 3)
    partial = f".p/{count - first}" if count - first < TILE else ""
    return re.sub("...(?=.)", r"x\g<0>/", digits) + partial


def tiles(auditor: Auditor, path: Path) -> str:
    """Check a whole log: every entry, tile and session, the order of time, and the root."""

    def content(name: str) -> bytes:
        require((path / name).is_file(), f"{name} is missing")
        with (path / name).open("rb") as file:
            return file.read(LINE_BYTES_MAX)

    head, chains, newest = auditor.head(content("checkpoint")), Chains(), 0
    level, count, above, rest = 0, head.size, list[bytes](), list[bytes]()
    while count:
        below, above = above, []
        for first in range(0, count, TILE):
            name = tile_name(first, count)
            hashes = below[first : first + TILE]
            if not level:
                bundle = content(f"tile/entries/{name}")
                for at in range(0, len(bundle), 2 + ENTRY.size):
                    raw, index = bundle[at + 2 : at + 2 + ENTRY.size], first + len(hashes)
                    require(bundle[at : at + 2] == b"\0\xe8", f"event {index} has another size")
                    entry = Entry.parse(raw)
                    entry.follow(chains, index)
                    require(newest <= entry.recorded_at, f"event {index} goes back in time")
                    newest = entry.recorded_at
                    hashes.append(leaf_hash(raw))
            same = content(f"tile/{level}/{name}") == b"".join(hashes)
            due = len(hashes) == min(count - first, TILE)
            require(same and due, f"tile/{level}/{name} is not what its entries hash to")
            above += [root_of(hashes)] if len(hashes) == TILE else []
        rest = [root_of(hashes + rest)] if count % TILE else rest
        level, count = level + 1, count // TILE
    require(root_of(rest) == head.root, "the entries have another root than the head")
    auditor.tiles[head] = chains
    return f"{head.size} events of {head.origin!r} in {len(chains)} sessions"


def check(auditor: Auditor, path: Path) -> str:
    """Check one file or directory and return what it proves."""
    if path.is_dir():
        return tiles(auditor, path)
    with path.open("rb") as file:
        if file.peek(64).startswith(b'{"format":"eventstore/session@v1"'):
            return session(auditor, iter(lambda: file.readline(LINE_BYTES_MAX), b""))
        raw = file.read(FILE_BYTES_MAX)
    ways = {
        b"c2sp.org/tlog-proof@v1\n": tlog_proof,
        b"eventstore/consistency@v1\n": consistency,
        b'{"format":"eventstore/disclosure@v1",': disclosure,
        b"eventstore/key-rotation@v1\n": Auditor.rotation,
    }
    for start, way in ways.items():
        if raw.startswith(start):
            return way(auditor, raw)
    return "{!r} has {} events".format(*auditor.head(raw))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Check evidence about an event store, offline.")
    parser.add_argument("--key", action="append", required=True, help="a verifier key or its file")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    given, code, form = parser.parse_args(arguments), 0, sys.stdout.encoding
    try:
        texts = [Path(key).read_text() if Path(key).is_file() else key for key in given.key]
        auditor = Auditor([Key.parse(text.strip()) for text in texts])
    except (OSError, ValueError) as error:
        parser.error(f"--key takes a verifier key or its file: {error}")
    for path in given.files:
        try:
            line = f"ok   {path}: {check(auditor, path)}"
        except (ValueError, RecursionError) as why:
            line, code = f"FAIL {path}: {why}", 1
        except OSError as error:
            line, code = f"???? {path}: {error.strerror}", code or 2
        print(str(line.encode(form, "backslashreplace"), form))  # noqa: T201 - what it is for
    return code


if __name__ == "__main__":
    sys.exit(main())
