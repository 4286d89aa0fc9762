"""What unproven facts say of others: one that the others give the lie to was never committed.

Invariants: a fact that nothing proves makes no room in a session where a fact that is there stands,
and takes nothing away that the newest tree still has: a redaction and the end of its payload are
one commit, and so are an erasure and its row.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..errors import EventStoreError
from ..events import (
    AnyEvent,
    BranchCreated,
    BranchMerged,
    EraseRequested,
    HistorySummarized,
    KeyShredded,
    MessagesPruned,
    Redacted,
    Span,
)
from ..log.format import MESSAGE, TYPE_CODES
from ..log.frame import Frame
from .salvage import Salvage

MERGED = TYPE_CODES[BranchMerged]


class _Claim(NamedTuple):
    """What the frame at a position says of another session at that moment.

    It went at least to a version and a number of messages; if `halved`, half of a merge is next.
    """

    by: int
    version: int = -1
    number: int = 0
    halved: bool = False

    def fails(self, later: Frame) -> bool:
        """Return True where a later frame of the session stands where this says others do."""
        behind = later.version <= self.version or later.number < self.number
        halves = later.version == self.version + 1 and later.row(0)[3] != MERGED
        return behind or (self.halved and halves)


def facts_of(frame: Frame) -> list[AnyEvent]:
    """Return the events of a frame that can be read and are no messages."""
    found = []
    for index, row in enumerate(frame.rows()):
        if row[3] != MESSAGE:
            with suppress(EventStoreError):
                found.append(frame.structure(index))
    return [event for event in found if event is not None]


def denied(
    unproven: list[Frame], frames: Callable[[], Iterator[Frame]], salvage: Salvage
) -> set[int]:
    """Return the positions of unproven frames whose facts others give the lie to.

    `frames` are all that would be taken, in order and with their names, the unproven ones too.
    """
    if not unproven:
        return set()
    facts = {each.position: facts_of(each) for each in unproven}
    found = _wrong_takings(unproven, facts, salvage) if salvage.size_known else set()
    redacted = _redactions(unproven, facts) if salvage.size_known else {}
    claims: dict[str, list[_Claim]] = {}
    for frame in frames():
        found |= {each.by for each in claims.pop(frame.session, ()) if each.fails(frame)}
        for version, by in redacted.get(frame.session_ref, ()):
            index = version - frame.version
            is_other = frame.position not in facts
            if is_other and 0 <= index < frame.count and not frame.erased(index):
                found.add(by)
        for session, claim in _claims(frame, facts.get(frame.position, [])):
            claims.setdefault(session, []).append(claim)
    return found


def _claims(frame: Frame, facts: Iterable[AnyEvent]) -> Iterator[tuple[str, _Claim]]:
    """Iterate over what the facts of a frame say of sessions."""
    by = frame.position
    for fact in facts:
        if isinstance(fact, BranchCreated):
            yield fact.parent, _Claim(by, fact.at_version)
        elif isinstance(fact, BranchMerged):
            from_into = frame.session == fact.into
            yield fact.source, _Claim(by, fact.source_version, halved=from_into)
            yield fact.into, _Claim(by, fact.into_version - from_into)
            yield from ((session, _Claim(by, version)) for session, version in fact.base)
            yield from _shown(by, fact.brought + fact.hidden)
        elif isinstance(fact, (MessagesPruned, HistorySummarized)):
            yield from _shown(by, fact.spans)


def _shown(by: int, spans: Iterable[Span]) -> Iterator[tuple[str, _Claim]]:
    for span in spans:
        claim = _Claim(by, version=span.start) if span.note else _Claim(by, number=span.stop)
        yield span.session, claim


def _redactions(
    unproven: Iterable[Frame], facts: dict[int, list[AnyEvent]]
) -> dict[int, list[tuple[int, int]]]:
    """Return, by the references of sessions, which versions were redacted, and by which frame."""
    found: dict[int, list[tuple[int, int]]] = {}
    for frame in unproven:
        for fact in facts[frame.position]:
            if isinstance(fact, Redacted):
                found.setdefault(frame.session_ref, []).append((fact.version, frame.position))
    return found


def _wrong_takings(
    unproven: Iterable[Frame], facts: dict[int, list[AnyEvent]], salvage: Salvage
) -> set[int]:
    """Return the positions of erasures that the newest tree has no row for."""
    return {
        frame.position
        for frame in unproven
        if any(isinstance(each, (EraseRequested, KeyShredded)) for each in facts[frame.position])
        if not salvage.is_erased(frame.session_ref)
    }
