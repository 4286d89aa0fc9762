"""Tokens: what a message costs, estimated or counted exactly, always offline.

Invariants: a count is taken once, when the message is appended (`EventStore.open(count_tokens=)`),
and stored with it, so a window and a limit use the same number for ever, whichever counter is in
use today; every counter counts messages.texts_read(): text, tool-call arguments and results, and
neither roles, names and ids nor the few tokens that a provider adds for each message.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidEvent, brief
from ..messages import Json, TokenCounter, count_tokens, texts_read

CHARACTERS = "characters"
"""The estimate that is always there: 4 characters a token, rounded up."""

ENCODINGS = ("o200k_base", "cl100k_base", "o200k_harmony", "llama3", "qwen3")
"""Vocabularies inside the extra `tokens`: nothing is downloaded."""


def token_counter(choice: str | TokenCounter = CHARACTERS) -> TokenCounter:
    """Return the counter that a setting means: "characters", the name of an encoding, a callable.

    A callable is given the message's fields; the store that it counts for holds it to whole
    numbers. Raises InvalidEvent.
    """
    if choice == CHARACTERS:
        return count_tokens
    if isinstance(choice, str):
        return exact(choice)
    if not callable(choice):
        raise InvalidEvent(f"a token counter is a name or a callable, not {brief(choice)}")
    return choice


def exact(encoding: str = "o200k_base") -> TokenCounter:
    """Return a counter of the very tokens that one of ENCODINGS makes.

    Loading takes about a second, counting some 10 ns a character; safe for many threads. Needs the
    extra `tokens`; raises InvalidEvent where that is missing or the name is not in the list.
    """
    if encoding not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise InvalidEvent(f"there is no encoding {encoding!r}; tokens are {CHARACTERS}, {known}")
    vocabulary = _loaded(encoding)

    def count(fields: Mapping[str, Json]) -> int:
        return sum(vocabulary.count(_clean(text)) for text in texts_read(fields) if text)

    return count


def _loaded(encoding: str) -> Any:
    try:
        import quicktok  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidEvent(
            f"exact tokens of {encoding!r} need quicktok: pip install 'session-eventstore[tokens]'"
        ) from None
    return quicktok.get_encoding(encoding)


def _clean(text: str) -> str:
    """Return the text without lone surrogates: no vocabulary has them, and no fact holds them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
