"""The worked example in docs/format.md is what the code writes."""

import re
from pathlib import Path

from eventstore import events
from eventstore.log.base import ANY, Append
from eventstore.log.draft import draft
from eventstore.log.memory import MemoryLog
from eventstore.messages import Message

PAGE = (Path(__file__).parents[1] / "docs/format.md").read_text()
CLOCK = 1_700_000_000_000_000_000


def example() -> MemoryLog:
    """Return the log of the worked example."""
    log = MemoryLog()
    created = draft("s", [events.SessionCreated()], log.codec, bytes(range(16)))
    said = events.MessageAppended(Message({"role": "user", "content": "Hi"}), 1)
    message = draft("s", [said], log.codec, bytes(range(16, 32)))
    log.commit([Append((created,), (ANY,))], CLOCK)
    log.commit([Append((message,), (ANY,), actor="user:7", key="k1")], CLOCK)
    return log


def test_the_drawn_frame_is_byte_for_byte_what_is_written():
    """The hex of docs/format.md is the frame at position 1."""
    drawn = re.search(r"```hex\n(.*?)```", PAGE, re.DOTALL)
    assert drawn is not None
    assert example().read_all(1)[0].raw == bytes.fromhex(drawn[1])


def test_the_named_root_is_the_root_of_the_example():
    """The root in docs/format.md is that of the two events."""
    assert example().head().root.hex() in PAGE
