"""Facts made by hand, for tests below the commands: known salts, and JSON of any shape."""

from collections.abc import Sequence
from hashlib import sha256

from hypothesis import strategies as st

from eventstore import events as ev
from eventstore.log.base import ANY, Append
from eventstore.log.codec import Codec
from eventstore.log.frame import Draft, draft
from eventstore.messages import Message

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
