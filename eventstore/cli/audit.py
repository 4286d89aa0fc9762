"""Commands that prove: keys, signed heads, evidence to hand out, and its check without any store.

Invariants: keys and kept heads lie outside the store; what is handed out was checked first, as a
stranger would check it; a file appears whole or not at all.
"""

import shlex
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from .. import EventStore, InvalidEvent, ProofError, StoreUnavailable
from ..audit import verifier
from ..audit.anchors import Anchor, to_command, to_directory, to_url
from ..audit.dossier import DOSSIER, dossier_lines, dossier_of, page_parts
from ..audit.evidence import disclose as disclosed
from ..audit.evidence import prove_consistency, prove_event, prove_session
from ..audit.heads import Heads, open_head
from ..audit.note import origin_of
from ..audit.outside import Outside
from ..audit.signer import SigningKey, VerifierKey, check_key_name, is_made
from ..audit.stamps import read_roots, to_authority
from ..audit.tiles import CHECKPOINT, export_tiles
from ..audit.trust import (
    ANCHORS,
    LAST_NOTE,
    NEXT_KEY,
    SIGNING_KEY,
    STAMPS,
    TILES,
    VERIFIED,
    VERIFIER_KEY,
    known_keys,
    read_key,
    read_note,
    rotation_path,
)
from ..errors import counted
from ..files import sync_directory, unavailable, write_durably
from ..place.directory import describe
from .app import NO, PROOF, WRONG, Session, command
from .drawing import done, pairs, plain, whole
from .terminal import Terminal, parse_number, written

NAME_DEFAULT = "eventstore"
"""What stands in front of the store's id in an origin, where nothing better is named."""

REPORTS = b"<!doctype html>", f'{{"format":"{DOSSIER}"'.encode()
"""How a report begins: the page, and the lines for machines."""

EVENT, CONSISTENCY, SESSION = "event", "consistency", "session"

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write this file; else stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file.")]
HeadFile = Annotated[
    Path | None, typer.Option("--head", metavar="NOTE", help="The signed head; else the last one.")
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="KEY", help="Verifier key or its file; may be repeated."),
]


# -- keys and heads ----------------------------------------------------------------------


@command(PROOF)
def keygen(
    terminal: Terminal,
    name: Annotated[
        str, typer.Option(help="Whose heads these are, such as example.com/support.")
    ] = NAME_DEFAULT,
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Hand over to a new key, signed by the old one.")
    ] = False,
) -> None:
    """Make the key that signs this store's heads, outside of the store."""
    key = _rotated(terminal) if rotate else _generated(terminal, name)
    document = {"origin": key.name, "key": str(key), "path": str(terminal.audit)}
    told = done(f"key {key.id.hex()} signs for {key.name}")
    public = [terminal.audit / VERIFIER_KEY, *_rotations(terminal)]
    rows = [("keep secret", terminal.audit / SIGNING_KEY), *(("hand out", each) for each in public)]
    terminal.answer(document, told, pairs([(use, plain(str(place))) for use, place in rows]))


def _generated(terminal: Terminal, name: str) -> VerifierKey:
    try:
        check_key_name(name)
    except ProofError as error:
        raise InvalidEvent(f"--name: {error}") from None
    with terminal.reading() as store:
        origin = origin_of(name, store.origin)
    _put_away(terminal)
    place = terminal.audit / SIGNING_KEY
    if (terminal.audit / VERIFIER_KEY).exists():
        if is_made(place):
            raise StoreUnavailable(f"{place} exists already; --rotate hands over to a new key")
        what = f"{place} holds no key, but {VERIFIER_KEY} is of one that was there"
        raise StoreUnavailable(f"{what}; restore it from its backup")
    with unavailable(terminal.audit):
        terminal.audit.mkdir(parents=True, exist_ok=True)
    made = is_made(place)
    key = SigningKey.load(place) if made else SigningKey.generate(origin)
    if not made:
        key.save(place)
    with unavailable(terminal.audit):
        write_durably(terminal.audit / VERIFIER_KEY, f"{key.verifier}\n".encode())
        sync_directory(terminal.audit)
    return key.verifier


def _put_away(terminal: Terminal) -> None:
    """Move what belongs to the origin before a restore into a directory of its own."""
    place, marker = terminal.audit, describe(terminal.path)
    if not (place / VERIFIER_KEY).exists():
        return
    name = read_key(place / VERIFIER_KEY).name
    if name.endswith(f"/{marker['origin']}"):
        return
    earlier = marker["restored"].get("origin")
    if not earlier or not name.endswith(f"/{earlier}"):
        raise StoreUnavailable(f"{place} belongs to {name!r}, not to this store; move it away")
    with unavailable(place):
        (place / earlier).mkdir(exist_ok=True)
        # The key comes last: it tells whose the rest is, should this be interrupted.
        notes = [path.name for path in place.glob("rotation-*.note")]
        for each in (LAST_NOTE, *notes, TILES, VERIFIED, NEXT_KEY, SIGNING_KEY, VERIFIER_KEY):
            if (place / each).exists():
                (place / each).replace(place / earlier / each)
        sync_directory(place)


def _rotated(terminal: Terminal) -> VerifierKey:
    """Hand over to a new key; where that was interrupted, go on with the key that was made."""
    place = terminal.audit
    old = _signing_key(place)
    if not is_made(place / NEXT_KEY):
        SigningKey.generate(old.name).save(place / NEXT_KEY)
    new = SigningKey.load(place / NEXT_KEY)
    with terminal.writing() as store:
        keys = known_keys(place)
        Heads(store, old, place / LAST_NOTE, earlier=keys).rotate(new)
    with unavailable(place):
        (place / NEXT_KEY).replace(place / SIGNING_KEY)
        sync_directory(place)
    return new.verifier


@command(PROOF)
def checkpoint(
    terminal: Terminal,
    output: Output = None,
    force: Force = False,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            help="Leave the head there too: a directory, https://..., 'command: ...' or "
            "stamp:https://... Repeatable; also the lines of the file `anchors`.",
        ),
    ] = None,
) -> None:
    """Sign the head as it stands: what extends it later can be checked by whoever holds it."""
    anchors = [anchor_of(text, terminal.audit) for text in [*_anchors(terminal), *(anchor or ())]]
    with terminal.writing() as store, written(output, force=force) as out:
        heads = _heads(terminal, store, anchors)
        note = heads.sign()
        head = open_head(store, note, known_keys(terminal.audit))
        if (terminal.audit / TILES / CHECKPOINT).exists():
            export_tiles(store, note, known_keys(terminal.audit), terminal.audit / TILES)
        document = {"origin": head.origin, "size": head.size, "root": head.root.hex()}
        if output is not None:
            out.write(note)
            told = f"{output}: a head of {counted(head.size, 'fact')}"
            terminal.answer({**document, "path": str(output)}, done(told))
        elif terminal.json:
            terminal.answer({**document, "note": note.decode()})
        else:
            out.write(note)


def _heads(terminal: Terminal, store: EventStore, anchors: Sequence[Anchor]) -> Heads:
    place = terminal.audit
    key = _signing_key(place)
    if (place / NEXT_KEY).exists():
        raise StoreUnavailable("a rotation was interrupted; run 'eventstore keygen --rotate' again")
    keys = known_keys(place)
    if key.verifier != keys[-1]:
        raise ProofError(f"{place / SIGNING_KEY} is not the key that signs now: {keys[-1]}")
    return Heads(store, key, place / LAST_NOTE, earlier=keys, anchors=anchors)


def _signing_key(place: Path) -> SigningKey:
    if not (place / SIGNING_KEY).exists():
        raise StoreUnavailable(f"there is no key in {place}; run 'eventstore keygen' first")
    return SigningKey.load(place / SIGNING_KEY)


def _anchors(terminal: Terminal) -> list[str]:
    place = terminal.audit / ANCHORS
    lines = (read_note(place) or b"").decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def anchor_of(text: str, audit: Path) -> Anchor:
    """Return the anchor that a text names.

    Raises InvalidEvent and StoreUnavailable, and ProofError for a PEM.
    """
    kind, _, rest = text.partition(":")
    if kind == "command":
        return to_command(_words(rest))
    if kind == "stamp":
        return to_authority(rest, audit / STAMPS, read_roots(audit / STAMPS / "roots.pem"))
    if kind in ("http", "https"):
        return to_url(text)
    if rest.startswith("//"):
        raise InvalidEvent(f"an anchor is left over http or https, not {kind}: {text}")
    return to_directory(Path(text))


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidEvent(f"the command of an anchor can't be read: {error}") from None


# -- evidence ----------------------------------------------------------------------------


@command(PROOF)
def prove(
    terminal: Terminal,
    what: Annotated[str, typer.Argument(metavar="WHAT", help="event, session or consistency.")],
    of: Annotated[list[str], typer.Argument(metavar="POS | S | OLD NEW", help="Of which.")],
    output: Output = None,
    force: Force = False,
    head: HeadFile = None,
    key: Keys = None,
) -> None:
    """Prove that an event is in the history, that a session is whole, or that heads agree."""
    needed = {EVENT: 1, SESSION: 1, CONSISTENCY: 2}
    if needed.get(what) != len(of):
        raise InvalidEvent("prove takes: event POS, session S, or consistency OLD NEW")
    with terminal.reading() as store, written(output, force=force) as out:
        proof = b""
        if what == CONSISTENCY:
            old, new = (_note(Path(each)) for each in of)
            proof = prove_consistency(store, old, new, _keys(terminal, key))
        elif what == SESSION:
            out.writelines(prove_session(store, of[0], _head(terminal, head), _keys(terminal, key)))
        else:
            at, note = _position(of[0]), _head(terminal, head)
            proof = prove_event(store, at, note, _keys(terminal, key))
        if terminal.json and output is None and proof:
            proof = msgspec.json.encode({"proof": proof.decode()}) + b"\n"
        out.write(proof)
    tell_written(terminal, output, f"proof of {what} {' '.join(of)}")


@command(PROOF)
def disclose(
    terminal: Terminal,
    position: Annotated[int, typer.Argument(metavar="POS", help="Position of the event.")],
    output: Output = None,
    force: Force = False,
    head: HeadFile = None,
    key: Keys = None,
    names: Annotated[
        bool, typer.Option("--names/--no-names", help="With session, actor and ids.")
    ] = True,
) -> None:
    """Give away one event, its payload included, with all that ties it to a signed head."""
    with terminal.reading() as store, written(output, force=force) as out:
        note, keys = _head(terminal, head), _keys(terminal, key)
        out.write(disclosed(store, position, note, keys, names=names))
    tell_written(terminal, output, f"disclosure of event {position}")


@command(PROOF)
def audit_export(
    terminal: Terminal,
    session: Session,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page for people; else JSON lines.")
    ] = None,
    output: Output = None,
    force: Force = False,
    head: HeadFile = None,
    key: Keys = None,
) -> None:
    """Report a session: every fact in order, under the last signed head, with its evidence."""
    if html is not None and output is not None:
        raise InvalidEvent("--html FILE writes the page, --output FILE JSON lines: give one")
    with terminal.reading() as store:
        signed = head is not None or (terminal.audit / LAST_NOTE).exists()
        note, keys = (_head(terminal, head), _keys(terminal, key)) if signed else (None, [])
        report = dossier_of(store, session, note, keys)
        parts = page_parts(store, report, keys) if html else dossier_lines(store, report)
        with written(html or output, force=force) as out:
            out.writelines(parts)
    what = f"report of {session}, {counted(report.events, 'fact')}"
    tell_written(terminal, html or output, what)


def export_tree(terminal: Terminal, directory: Path) -> None:
    """Write the tree under the last signed head as static tiles."""
    with terminal.reading() as store, terminal.progress("exporting"):
        head = export_tiles(store, _head(terminal, None), known_keys(terminal.audit), directory)
    tell_written(terminal, directory, f"tiles of {counted(head.size, 'fact')}")


def tell_written(terminal: Terminal, path: Path | None, what: str) -> None:
    """Say that a file was written, where it was one and not stdout."""
    if path is not None:
        terminal.answer({"path": str(path)}, done(f"{path}: {what}"))


def _position(text: str) -> int:
    number = parse_number(text)
    if number is None:
        raise InvalidEvent(f"a position is a whole number from 0 on, not {text!r}")
    return number


def _head(terminal: Terminal, path: Path | None) -> bytes:
    note = read_note(path or terminal.audit / LAST_NOTE)
    if note is None and path is None:
        raise StoreUnavailable("no head was signed yet; run 'eventstore checkpoint' first")
    return _note(path) if note is None and path is not None else note or b""


def _note(path: Path) -> bytes:
    note = read_note(path)
    if note is None:
        raise StoreUnavailable(f"{path}: no such file")
    return note


def _keys(terminal: Terminal, given: list[str] | None) -> list[VerifierKey]:
    """Return the keys that were given, else those of the audit directory."""
    kept = terminal.audit / VERIFIER_KEY
    if not given and not kept.exists():
        raise InvalidEvent(f"there is no verifier key at {kept}; give it with --key")
    if not given:
        return known_keys(terminal.audit)
    return [_key(text) for text in given]


def _key(text: str) -> VerifierKey:
    try:
        return read_key(Path(text)) if Path(text).is_file() else VerifierKey.parse(text)
    except ProofError as error:
        raise InvalidEvent(f"--key takes a verifier key or its file: {error}") from None


# -- checking ----------------------------------------------------------------------------


@command(PROOF)
def check(
    terminal: Terminal,
    files: Annotated[list[Path], typer.Argument(help="Evidence, in order.", show_default=False)],
    key: Keys = None,
) -> None:
    """Check evidence without any store: heads, proofs, disclosures, bundles, tiles, rotations."""
    keys = _keys(terminal, key)
    known = keys if key else keys[:1]  # our own later keys are admitted as a stranger would
    auditor = verifier.Auditor([verifier.Key.parse(str(each)) for each in known])
    for path in [] if key else _rotations(terminal):
        verifier.check(auditor, path)
    found, code = [], 0
    for path in files:
        proven, says = _checked(auditor, path)
        code = NO if proven is False else code or (WRONG if proven is None else 0)
        found.append({"file": str(path), "proven": proven, "says": says})
    terminal.answer(found, *[_verdict(each) for each in found])
    if code:
        raise typer.Exit(code)


def _checked(auditor: verifier.Auditor, path: Path) -> tuple[bool | None, str]:
    """Return if a file is proven, None where it could not be checked, and what is to be said."""
    try:
        if _is_report(path):
            return None, "a report to read; check the bundle on its page, or of 'prove session'"
        return True, verifier.check(auditor, path)
    except (ValueError, RecursionError) as error:
        return False, str(error)
    except OSError as error:
        return None, error.strerror or str(error)


def _is_report(path: Path) -> bool:
    """Return True for what audit-export writes, which tells of evidence and is none itself."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(len(max(REPORTS, key=len))).startswith(REPORTS)


def _rotations(terminal: Terminal) -> list[Path]:
    paths = []
    for number in count(1):
        path = rotation_path(terminal.audit, number)
        if not path.exists():
            break
        paths.append(path)
    return paths


def _verdict(found: Mapping[str, object]) -> RenderableType:
    marks = {True: ("✓ ", "green"), False: ("✗ ", "bold red"), None: ("? ", "yellow")}
    proven = found["proven"]
    mark = marks[proven if isinstance(proven, bool) else None]
    return whole(Text.assemble(mark, (f"{found['file']}: ", "bold"), plain(str(found["says"]))))


def outside_of(
    terminal: Terminal, heads: Sequence[Path], key: list[str] | None, tiles: Path | None
) -> Outside | None:
    """Return what is kept of the store outside: what is named, and what its audit directory has."""
    place = terminal.audit
    own = [place / LAST_NOTE] if (place / LAST_NOTE).exists() else []
    kept = place / TILES if (place / TILES / CHECKPOINT).exists() else None
    if not heads and not own and tiles is None and kept is None:
        if key:
            raise InvalidEvent("--key is for signed heads, of which none is kept or given")
        return None
    if tiles is not None and not (tiles / CHECKPOINT).exists():
        raise StoreUnavailable(f"{tiles / CHECKPOINT}: no such file; it holds the tiles' own head")
    keys = _keys(terminal, key)
    if key and (place / VERIFIER_KEY).exists():
        keys += known_keys(place)
    notes = [(str(path), _note(path)) for path in [*heads, *own]]
    return Outside(notes, keys, tiles or kept)
