"""The system stream: facts about the store as a whole, beside those about its sessions.

Invariants: one stream of one reserved name, made with its first fact; its facts have positions,
entries and proofs like all others; commands of users never write to it, and lists, views and
statistics of sessions leave it out.
"""

from collections.abc import Sequence

from ..events import Event, SessionCreated
from ..ids import SYSTEM
from ..log.base import ANY, NO_STREAM, Log
from .requests import Part

SYSTEM_METADATA = {"type": "system"}

ORIGIN = "origin"
"""What a restored store says first: which origin it goes on from, the last known head, and why."""

READ = "read"
"""Somebody read a session, or the whole log, through a store that records reads."""

ROTATION = "key rotation"
"""A signing key's hand-over to the next, signed by both."""


def system_parts(log: Log, facts: Sequence[Event]) -> list[Part]:
    """Return the parts that add facts to the system stream of a log as it stands."""
    if log.tail(SYSTEM) is not None:
        return [Part(SYSTEM, facts, ANY)]
    return [Part(SYSTEM, [SessionCreated(SYSTEM_METADATA), *facts], NO_STREAM)]
