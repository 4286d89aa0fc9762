"""Names: what a session id, actor or key may be, and how fresh ones are made.

A name is 1 to NAME_BYTES_MAX bytes of UTF-8 without control characters. A message without
an id of its own is called `session#version`, so the id follows from the receipt.
"""

import os
import time
import unicodedata

from .errors import InvalidEvent
from .limits import NAME_BYTES_MAX

VERSION_DIGITS_MAX = 10
"""Digits of the largest version: it has 32 bits."""

SYSTEM = "eventstore:store"
"""The reserved name of the stream that holds facts about the store itself, see system.py."""


def check_name(name: object, what: str) -> str:
    """Return `name` if it is a valid name, else raise InvalidEvent that starts with `what`."""
    if type(name) is not str:
        raise InvalidEvent(f"{what} must be a string, not {type(name).__name__}")
    if not name:
        raise InvalidEvent(f"{what} must not be empty")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidEvent(f"{what} holds a lone surrogate, which no UTF-8 can carry") from None
    if size > NAME_BYTES_MAX:
        raise InvalidEvent(f"{what} has {size} bytes, the limit is {NAME_BYTES_MAX}")
    if not name.isprintable() and any(unicodedata.category(char) == "Cc" for char in name):
        raise InvalidEvent(f"{what} {name!r} holds a control character")
    return name


def check_session(name: object) -> str:
    """Return `name` if commands may name a session so, else raise InvalidEvent."""
    if name == SYSTEM:
        raise InvalidEvent(f"session {SYSTEM!r} is the store's own; choose another name")
    return check_name(name, "session id")


def optional_name(name: str | None, what: str) -> str | None:
    """Like check_name, but None passes."""
    return None if name is None else check_name(name, what)


def fresh_id() -> str:
    """Return a UUID of version 7 (RFC 9562): ids sort by the millisecond they were made in."""
    millis = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10), "big")
    high, low = noise >> 62 & 0xFFF, noise & (1 << 62) - 1
    text = f"{millis << 80 | 0x7 << 76 | high << 64 | 0x2 << 62 | low:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def message_stem(session: str) -> str:
    """Return what the made ids of a session's messages begin with; the version follows."""
    return f"{session}#"


def message_id(session: str, version: int) -> str:
    """Return the id of the message at `version` of `session` when it brought none."""
    return f"{session}#{version}"


def parse_message_id(text: str) -> tuple[str, int] | None:
    """Return (session, version) when `text` has the shape of a made message id, else None."""
    session, sep, version = text.rpartition("#")
    if not (sep and session and version.isascii() and version.isdigit()):
        return None
    if len(version) > VERSION_DIGITS_MAX:
        return None
    return session, int(version)
