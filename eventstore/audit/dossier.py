"""The audit report of a session: every fact in order, the signed head, the evidence.

Invariants: one file that loads nothing from anywhere and runs no script; whatever a fact says is
text on it, never markup; facts are taken page by page, so that a long session needs no more
memory than a short one; what was erased is shown as erased, with its place and its hash.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

import msgspec

from ..clock import to_datetime
from ..engine.reading import version_at
from ..errors import InvalidEvent, KeyShredded, StoreUnavailable
from ..limits import NESTING_DEPTH_MAX
from ..log.recorded import Recorded
from ..messages import check_json
from ..store import EventStore
from .evidence import prove_session
from .heads import open_head
from .leaves import frame_entries
from .note import Checkpoint
from .signer import VerifierKey
from .tree import leaf_hash

DOSSIER = "eventstore/audit-report@v1"
"""The format for machines: one JSON object a line, the first about the session."""

BASE64_BYTES = 3 << 16
"""How much evidence is encoded at a time; a multiple of 3, so that the pieces fit together."""

NESTING_MAX = 2 * NESTING_DEPTH_MAX
"""How deep a fact is that holds what a caller gave; whatever is deeper was never appended."""

LINE_CHARACTERS_MAX = 80
"""JSON that is longer is set on several lines."""

UNSIGNED = "No signed head is given: this is a copy of what the store says, and proves nothing."


class Fact(msgspec.Struct, frozen=True):
    """One event as a dossier has it; times in ns, `leaf` is the hex of its hash in the tree.

    `data` is what was recorded, with its `type`; None where it can't be read, and `missing` says
    why.
    """

    position: int
    version: int
    recorded_at: int
    type: str
    actor: str | None
    correlation_id: str | None
    causation_id: str | None
    occurred_at: int | None
    leaf: str
    data: dict[str, Any] | None = None
    missing: str | None = None


class Dossier(msgspec.Struct, frozen=True):
    """What is said of a session before its facts; without a signed head no `note` and no `keys`."""

    format: str
    store: str
    origin: str
    session: str
    events: int
    log_size: int
    root: str
    note: str = ""
    keys: list[str] = []


def dossier_of(
    store: EventStore, session: str, note: bytes | None, keys: Sequence[VerifierKey]
) -> Dossier:
    """Return what comes before the facts, over the events under a signed head or the newest one.

    Raises SessionNotFound, and ProofError where the head is not this store's.
    """
    newest = store.version(session)
    head = store.head()
    signed = Checkpoint(store.origin, head.size, head.root)
    if note is not None:
        signed = open_head(store, note, keys)
        newest = version_at(store.log, session, signed.size - 1)
    texts = [str(key) for key in keys] if note else []
    root, text = signed.root.hex(), (note or b"").decode()
    size = signed.size
    return Dossier(
        DOSSIER, store.id, signed.origin, session, newest + 1, size, root, text, keys=texts
    )


def facts_in(store: EventStore, dossier: Dossier) -> Iterator[Fact]:
    """Iterate over the facts of a dossier in order."""
    if dossier.events:
        for recorded in store.events(dossier.session, 0, dossier.events - 1):
            yield _fact(recorded)


def dossier_lines(store: EventStore, dossier: Dossier) -> Iterator[bytes]:
    """Iterate over the dossier for machines, as lines of JSON."""
    yield msgspec.json.encode(dossier) + b"\n"
    for fact in facts_in(store, dossier):
        yield msgspec.json.encode(fact) + b"\n"


def page_parts(store: EventStore, dossier: Dossier, keys: Sequence[VerifierKey]) -> Iterator[bytes]:
    """Iterate over the pieces of the page for people."""
    yield from _encoded(_top(dossier))
    for fact in facts_in(store, dossier):
        yield from _encoded(_row(fact))
    yield b"</tbody></table>\n"
    if dossier.note:
        yield from _encoded(_check(dossier))
        lines = prove_session(store, dossier.session, dossier.note.encode(), keys)
        yield from _link(lines)
    yield b"</main></body></html>\n"


# -- facts -------------------------------------------------------------------------------


def _fact(recorded: Recorded) -> Fact:
    """Take an event out of the log, its payload exactly as it was recorded."""
    entry = frame_entries(recorded.frame, recorded.position, recorded.position + 1)[0]
    data, missing = None, None
    try:
        recorded.event  # noqa: B018 - says why, where it can't be read
        said = msgspec.msgpack.decode(recorded.frame.opened(recorded.index)[2])
        check_json(said, "the payload", NESTING_MAX)  # msgpack has more than JSON
        data = said
    except (KeyShredded, StoreUnavailable, InvalidEvent) as error:
        missing = str(error)
    return Fact(
        recorded.position,
        recorded.version,
        recorded.recorded_at,
        recorded.type,
        recorded.actor,
        recorded.correlation_id,
        recorded.causation_id,
        recorded.occurred_at,
        leaf_hash(entry).hex(),
        data,
        missing,
    )


# -- the page ----------------------------------------------------------------------------

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--dim:#667;--line:#d8dbe0;--back:#fff;--soft:#f5f6f8;
--good:#17703f;--warn:#9a5b00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e7ea;--dim:#9aa0aa;--line:#3a3d44;--back:#17181b;
--soft:#202227;--good:#5fd394;--warn:#f0b35a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);margin:0}
main{max-width:1000px;margin:0 auto;padding:2rem 1rem}
h1{font-size:1.5rem;margin:0 0 .3rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .5rem}
.dim{color:var(--dim)}.good{color:var(--good)}.warn{color:var(--warn)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:1rem 0}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;table-layout:fixed}
th{text-align:left;color:var(--dim);font-weight:500}
th,td{padding:.4rem .5rem;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere}.n{width:4rem;text-align:right}.t{width:11rem}.w{width:10rem}
pre{background:var(--soft);padding:.8rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;
margin:.3rem 0;font:12.5px/1.45 ui-monospace,monospace}
.said{white-space:pre-wrap}code{font:12px ui-monospace,monospace}
.role{font-weight:600;margin-right:.4rem}
@media print{body{font-size:11px}a{color:inherit}}
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def _top(dossier: Dossier) -> str:
    standing = '<p class="good">Under a signed head.</p>' if dossier.note else ""
    unsigned = "" if dossier.note else f'<p class="warn">{UNSIGNED}</p>'
    rows = {
        "session": dossier.session,
        "events": f"{dossier.events:,} (versions 0 to {dossier.events - 1})",
        "store": dossier.store,
        "origin": dossier.origin,
        "log": f"{dossier.log_size:,} events",
        "root": dossier.root,
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows.items())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(dossier.session)}: audit report</title><style>{_STYLE}</style></head>\n"
        f'<body><main><h1>{escape(dossier.session)}</h1><p class="dim">What was recorded, by whom, '
        f"when. Times are UTC.</p>{standing}{unsigned}<dl>{listed}</dl>\n"
        "<h2>Facts</h2><table><thead><tr>"
        '<th class="n">version</th><th class="t">recorded, position</th><th class="w">actor</th>'
        "<th>what</th></tr></thead><tbody>\n"
    )


def _row(fact: Fact) -> str:
    when = to_datetime(fact.recorded_at).strftime("%Y-%m-%d %H:%M:%S.%f")
    said = "" if fact.occurred_at is None else f"<br>said {_when(fact.occurred_at)}"
    ids = {"belongs to": fact.correlation_id, "caused by": fact.causation_id}
    more = "".join(f"<br>{name} {escape(text)}" for name, text in ids.items() if text)
    return (
        f'<tr><td class="n">{fact.version}</td>'
        f'<td class="t">{when}<br><span class="dim">position {fact.position}{said}</span></td>'
        f'<td class="w">{escape(fact.actor or "")}<span class="dim">{more}</span></td>'
        f'<td>{_what(fact)}<div class="dim">leaf <code>{fact.leaf}</code></div></td></tr>\n'
    )


def _when(ns: int) -> str:
    try:
        return to_datetime(ns).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):  # the caller's own time may be any number
        return f"{ns} ns"


def _what(fact: Fact) -> str:
    kind = f'<span class="dim">{escape(fact.type)}</span>'
    if fact.data is None:
        return f'{kind} <em class="warn">{escape(fact.missing or "")}</em>'
    message = fact.data.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if isinstance(message, dict) and isinstance(text, str):
        role = escape(str(message.get("role", "")))
        rest = {k: v for k, v in message.items() if k not in ("role", "content")}
        said = f'<div class="said"><span class="role">{role}</span>{escape(text)}</div>'
        return f"{kind}{said}{_json(rest)}"
    return kind + _json({k: v for k, v in fact.data.items() if k != "type"})


def _json(value: dict[str, Any]) -> str:
    if not value:
        return ""
    short = json.dumps(value, ensure_ascii=False, default=str)
    if len(short) > LINE_CHARACTERS_MAX:
        short = json.dumps(value, ensure_ascii=False, default=str, indent=1)
    return f"<pre>{escape(short)}</pre>"


def _check(dossier: Dossier) -> str:
    keys = "\n".join(dossier.keys)
    return (
        "<h2>Signed head</h2>"
        f"<pre>{escape(dossier.note)}</pre><p>Keys that sign for this origin; take them from where "
        f"you trust them, not from here:</p><pre>{escape(keys)}</pre>"
        "<h2>Check it</h2><p>Save the evidence below as <code>session.jsonl</code>. It holds each "
        "event's entry and its proof under the head above. The verifier is one file that needs "
        "Python and <code>cryptography</code>, and nothing of this project:</p>"
        "<pre>python verifier.py --key KEY session.jsonl</pre>"
    )


def _link(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Encode the evidence piece by piece into a link that holds it."""
    yield b'<p><a download="session.jsonl" href="data:application/jsonl;base64,'
    held = b""
    for line in lines:
        held += line
        whole = len(held) // BASE64_BYTES * BASE64_BYTES
        yield b64encode(held[:whole])
        held = held[whole:]
    yield b64encode(held) + b'">Evidence: session.jsonl</a></p>\n'


def _encoded(text: str) -> Iterator[bytes]:
    yield text.encode("utf-8", "backslashreplace")
