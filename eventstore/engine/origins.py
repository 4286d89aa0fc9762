"""Origins: what a restored store says first, and why payloads are gone that no fact speaks of.

A copy up to a moment lacks the payloads that were redacted after it, and has not the facts that
say so: they are said again, in the very append that names the origin. Invariants: that append has
a key of its own, so that it is made once, by whoever opens the store first, as a whole or not at
all; sessions that were erased get nothing, the keyring knows of them (erasure.py).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .. import events as ev
from ..limits import APPEND_EVENTS_MAX
from ..log.base import Log, frames_between
from ..log.format import SHREDDED, TYPE_CODES
from ..log.frame import Frame
from ..messages import Json, check_json
from .requests import Ground, Part, Request, request
from .system import ORIGIN, system_parts

PAST = "past"
"""What the description of a store says that has lost payloads, but not all the facts about that."""

REASON_LOST = "redacted in the origin before, after the moment that this store was restored to"
"""Why a payload is gone that no fact of the copy speaks of."""

_REDACTED = TYPE_CODES[ev.Redacted]


def origin_key(origin: str) -> str:
    """Return the idempotency key of the fact that begins an origin."""
    return f"{ORIGIN} {origin}"


def lacks_reasons(log: Log, restored: Mapping[str, Json]) -> bool:
    """Return True where payloads may be gone without a fact; `restored` as describe() has it."""
    return bool(restored.get(PAST)) and log.erasures() > 0


def beginning(origin: str, restored: Mapping[str, Json]) -> Request:
    """Return the request for what a restored store says first. Raises InvalidEvent."""
    check_json(dict(restored), "what the store says of its origin")
    fact = ev.Custom(ORIGIN, {**restored, "begins": origin})

    def decide(ground: Ground) -> list[Part]:
        parts = system_parts(ground.log, [fact])
        return [*parts, *_reasons(ground.log)] if lacks_reasons(ground.log, restored) else parts

    key = origin_key(origin)
    return request([], ["system", fact], decide, {"key": key}, reads_state=True)


def _reasons(log: Log) -> Iterator[Part]:
    """Iterate over the facts that say what is gone, of each session as many as a frame takes."""
    for session, versions in unexplained(log).items():
        facts = [ev.Redacted(version, REASON_LOST) for version in versions]
        for start in range(0, len(facts), APPEND_EVENTS_MAX):
            yield Part(session, facts[start : start + APPEND_EVENTS_MAX])


def unexplained(log: Log) -> dict[str, list[int]]:
    """Return which payloads are gone without a fact, by session."""
    found: dict[str, list[int]] = {}
    for session, lost in _losses(log).items():
        told = {_redacted(*fact) for fact in lost.facts}
        found[session] = [version for version in lost.versions if version not in told]
    return {session: versions for session, versions in found.items() if versions}


def has_reasons(log: Log) -> bool:
    """Return True where each session has as many redactions as payloads are gone; needs no key.

    Less is damage, of which no copy may say that somebody redacted it.
    """
    return all(len(lost.facts) >= len(lost.versions) for lost in _losses(log).values())


class _Lost(NamedTuple):
    """The versions of a session whose payloads are gone, and where its redactions stand."""

    versions: list[int]
    facts: list[tuple[Frame, int]]


def _losses(log: Log) -> dict[str, _Lost]:
    """Return what is gone of each session, and its redactions; from the heads of all frames.

    Where the first payload of a session is gone it was erased, since nothing else takes that:
    such are not among them.
    """
    found = defaultdict[str, _Lost](lambda: _Lost([], []))
    for frame in frames_between(log):
        for index, row in enumerate(frame.rows()):
            if row[5] & SHREDDED:
                found[frame.session].versions.append(frame.version + index)
            elif row[3] == _REDACTED:
                found[frame.session].facts.append((frame, index))
    return {session: lost for session, lost in found.items() if lost.versions[:1] != [0]}


def _redacted(frame: Frame, index: int) -> int:
    """Return the version that a redaction says is gone."""
    fact = frame.event(index)
    assert isinstance(fact, ev.Redacted)
    return fact.version
