"""Write the golden store of today's format, and what it must give for ever, beside this file.

    python tests/golden/make.py

Run once for each format, before its release; a golden store is never made again, since its use
is to be old. `format-N/` is the store, `format-N.json` what reading it gives.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from eventstore import EventStore, Recorded
from eventstore.log.base import frames_between
from eventstore.log.format import FORMAT
from eventstore.state.header import SessionHeader
from projections.session import SessionState

HERE = Path(__file__).parent
START, STEP = 1_700_000_000_000_000_000, 1_000_000_000


def fill(store: EventStore) -> None:
    """Bring in every type of event that a command can make, and every shape of frame."""
    user, bot = {"actor": "user:7"}, {"actor": "agent:1"}
    store.create(
        "support-42",
        metadata={"type": "dm", "topic": "python"},
        context={"step": 1},
        user="user:7",
        ttl=86_400,
        max_messages=1_000,
        token_limit=50_000,
        template="support",
        **user,
    )
    store.append("support-42", {"role": "user", "content": "What is Python?"}, key="q1", **user)
    store.append(
        "support-42",
        [
            {"role": "assistant", "content": "A language.", "model": "m-1", "usage": {"total": 9}},
            {"role": "user", "content": [{"type": "text", "text": "Zeig es, bitte: äöü 🐍"}]},
        ],
        key="q2",
        correlation_id="trace-1",
        causation_id="q1",
        occurred_at=[1_600_000_000_123_456_789, -1],
        **bot,
    )
    call = {"id": "call-1", "type": "function", "function": {"name": "run", "arguments": "{}"}}
    store.append("support-42", {"role": "assistant", "content": None, "tool_calls": [call]}, **bot)
    store.append("support-42", {"role": "tool", "tool_call_id": "call-1", "content": "42"}, **bot)
    store.record_tool_call("support-42", "run", {"n": 1}, "42", call_id="call-1", duration_ms=1.5)
    store.record_error("support-42", "Timeout", "no answer", {"after": 3})
    store.record("support-42", "rated", {"stars": 5})
    store.branch("support-42", "experiment-1", at=2, name="again", description="ask again", **user)
    store.append("experiment-1", {"role": "user", "content": "What is a python?"}, **user)
    store.append("experiment-1", {"role": "narrator", "id": "given", "content": "A snake."})
    store.update_metadata("experiment-1", {"topic": "snakes", "pinned": True})
    store.set_context("experiment-1", "step", {"deep": [1, 2.5, None, False]})
    store.merge("experiment-1", into="support-42", on_conflict="theirs", key="merge")
    store.branch("support-42", "experiment-2")
    lines = [{"role": "user", "content": f"line {n} of 20"} for n in range(20)]
    store.append("experiment-2", lines)
    store.prune("experiment-2", keep_last=10, reason="too long")
    store.summarize("experiment-2", "Twenty lines were said.", upto=15)
    store.rewind("experiment-2", 21)
    store.undo("experiment-2")
    store.merge("experiment-2", into="support-42", strategy="squash", summary="More was said.")
    store.create("long")
    store.append("long", [{"role": "user", "content": f"long line {n}"} for n in range(240)])
    store.append("long", {"role": "system", "content": "0123456789abcdef" * 600})
    store.extend_ttl("long", None)
    store.close("long", reason="done")
    store.reopen("long")
    store.archive("long")
    store.create("gone")
    store.delete("gone", reason="asked to")
    store.create("told", user="user:7")
    store.append("told", [{"role": "user", "content": text} for text in ("mine", "ours")])
    store.branch("told", "shared")
    store.redact("shared", "told#1", reason="asked to")
    store.set_hold("told", reason="case 7")
    store.rewind("told", 1)
    store.set_hold(user="user:7")
    store.clear_hold(user="user:7", reason="closed")
    store.clear_hold("told")


def shown(recorded: Recorded) -> dict[str, Any]:
    """Return an event with its place as JSON."""
    names = ("position", "session", "version", "recorded_at", "occurred_at", "actor", "key")
    names += ("correlation_id", "causation_id", "type", "schema", "role", "tokens", "number")
    return {
        **{name: getattr(recorded, name) for name in names},
        "erased": recorded.erased,
        "event": msgspec.to_builtins(recorded.structure),
    }


def state(store: EventStore, session: str, version: int) -> list[Any]:
    """Return a session at one version: lines, tokens, status and the digest of all of it."""
    found = SessionState.of(store, session, at_version=version)
    messages = [{"id": each.id, **each.to_dict()} for each in found.messages]
    fresh = msgspec.to_builtins(SessionHeader())
    header = msgspec.to_builtins(found.header)
    told = {field: value for field, value in header.items() if value != fresh[field]}
    whole = {"header": told, "messages": messages}
    return [session, version, len(messages), found.tokens, found.status, digest(whole)]


def digest(value: Any) -> str:
    """Return the SHA-256 of a value as sorted JSON."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def moments(store: EventStore) -> list[tuple[str, int]]:
    """Return the sessions with some of their versions, the newest among them."""
    every = [(name, store.version(name)) for name in store.sessions()]
    return [(name, at) for name, last in every for at in sorted({0, last // 2, last})]


def all_that_it_gives(store: EventStore) -> dict[str, Any]:
    """Return everything that reading the store gives, as JSON."""
    head = store.head()
    return {
        "id": store.id,
        "size": head.size,
        "root": head.root.hex(),
        "recorded_at": head.recorded_at,
        "events": [shown(each) for each in store.all() if each.session != "long"],
        "long": digest([shown(each) for each in store.events("long")]),
        "states": [state(store, name, at) for name, at in moments(store)],
        "keys": {key: receipt(store, key) for key in ("q1", "q2", "merge")},
        "go on": [each.position for each in frames_between(store.log) if each.continues],
    }


def receipt(store: EventStore, key: str) -> list[Any]:
    """Return the content digest and the receipt behind a key as JSON."""
    found = store.log.receipt_of(key)
    assert found is not None
    return [found[0].hex(), msgspec.to_builtins(found[1])]


def clock() -> Callable[[], int]:
    """Return a clock that goes on by one second whenever it is read."""
    ticks = count(START, STEP)
    return lambda: next(ticks)


def main() -> None:
    """Make the store, copy it compacted, and write down what it gives."""
    place, told = HERE / f"format-{FORMAT}", HERE / f"format-{FORMAT}.json"
    if place.exists():
        sys.exit(f"{place} exists: a golden store is made once")
    with tempfile.TemporaryDirectory() as scratch:
        history = Path(scratch) / "history"
        with EventStore.open(history, clock=clock(), actor="maker") as store:
            fill(store)
            given = all_that_it_gives(store)
        (place / "log").mkdir(parents=True)
        with lmdb.open(str(history / "log"), readonly=True) as environment:
            environment.copy(str(place / "log"), compact=True)
        shutil.copy(history / "eventstore.json", place)
    told.write_text(json.dumps(given, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
