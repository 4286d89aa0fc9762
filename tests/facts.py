"""Facts for many tests: known salts, JSON of any shape, a store that used every command."""

from collections.abc import Sequence
from hashlib import sha256

from hypothesis import strategies as st

from eventstore import EventStore
from eventstore import events as ev
from eventstore.audit.report import Report
from eventstore.log.base import ANY, Append
from eventstore.log.codec import Codec
from eventstore.log.draft import Draft, draft
from eventstore.messages import Message

STORE = "0190a1b2-0000-7000-8000-000000000001"
"""The store that a keyring is of."""

CREATED = ev.SessionCreated(metadata={"topic": "tests"})
NOTED = ev.Custom("noted", {"n": 1})

INTS = st.integers(-(1 << 63), (1 << 64) - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | INTS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=5)


def said(text: str, tokens: int = 1) -> ev.MessageAppended:
    """Return a message as a fact."""
    return ev.MessageAppended(Message({"role": "user", "content": text}), tokens)


def drafted(session: str, facts: Sequence[ev.Event], codec: Codec, occurred=()) -> Draft:
    """Return a draft whose salts follow from its session."""
    salt = sha256(session.encode()).digest()[:16]
    return draft(session, facts, codec, salt * len(facts), occurred)


def append(session: str, *facts: ev.Event, codec: Codec, expected=ANY, **names) -> Append:
    """Return an append to one stream."""
    return Append((drafted(session, facts, codec),), (expected,), **names)


def append_all(parts: dict[str, Sequence[ev.Event]], codec: Codec, expected=(), **names) -> Append:
    """Return one atomic append to several streams."""
    drafts = tuple(drafted(session, facts, codec) for session, facts in parts.items())
    return Append(drafts, tuple(expected) or (ANY,) * len(drafts), **names)


def fill(store: EventStore) -> None:
    """Use every command that leaves a trace in verify's checks."""
    store.create("a", user="u1")
    for turn in range(150):
        store.append("a", {"role": "user", "content": f"turn {turn}"})
    store.append(
        "a", [{"role": "tool", "content": "x" * 300}] * 150, key="many", correlation_id="c"
    )
    store.branch("a", "b", at=20, key="branch")
    store.append("b", [{"content": "one"}, {"content": "two"}], occurred_at=7, actor="user:2")
    store.merge("b", into="a", strategy="interleave")
    store.merge("b", into="a", strategy="squash", summary="all of it")
    store.prune("a", keep_last=100)
    store.summarize("a", "short", upto=300)
    store.rewind("b", 1)
    store.undo("b")
    store.record("b", "custom", {"n": 1})
    store.delete("b")


def told(report: Report) -> str:
    """Return the findings as text."""
    return "\n".join(map(str, report.findings))
