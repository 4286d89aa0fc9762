"""What the walk finds gone: every payload that is missing needs a fact that says why.

Invariants: events come in the order of the log; what is kept in memory is runs of versions and of
lines, not single ones; which lines must be hidden, and which sessions count as erased, follows
from the frames, and the rows that say so are compared with it.
"""

from ..events import AnyEvent, EraseRequested, KeyShredded, Redacted, Span
from ..log.format import ERASED_KEY, ERASURES_KEY, HIDDEN_KEY, REF, TYPE_CODES
from ..log.frame import Frame
from ..log.shredding import hidden_with, line_at
from ..spans import minus
from .report import Notes

_ERASE_REQUESTED, _KEY_SHREDDED = TYPE_CODES[EraseRequested], TYPE_CODES[KeyShredded]

REASONS = frozenset((_ERASE_REQUESTED, _KEY_SHREDDED, TYPE_CODES[Redacted]))
"""Types of facts that say why something is gone."""


class Erasures:
    """Collects what is gone, by the references of sessions."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self.hidden: dict[int, list[Span]] = {}
        self.erased: dict[int, bool] = {}
        """Whether an erasure is still going on."""
        self._gone: dict[int, list[Span]] = {}
        self._told: dict[int, list[Span]] = {}
        self._newest: dict[int, int] = {}

    def left(self, frame: Frame, index: int) -> None:
        """Take an event whose payload is gone."""
        ref, version = frame.session_ref, frame.version + index
        self._notes.checked["erased payloads"] += 1
        gone = Span(frame.session, version, version + 1)
        self._gone[ref] = hidden_with(self._gone.get(ref, ()), [gone])
        self._newest[ref] = frame.position + index
        line = line_at(frame, index)
        if line is not None:
            self.hidden[ref] = hidden_with(self.hidden.get(ref, ()), [line])

    def said(self, frame: Frame, code: int, event: AnyEvent | None) -> None:
        """Take a fact that may say why something is gone; `event` is None where it is sealed."""
        ref = frame.session_ref
        if code == _ERASE_REQUESTED:
            self.erased[ref] = True
            self._gone.pop(ref, None)
        elif code == _KEY_SHREDDED:
            self.erased[ref] = False
        elif isinstance(event, Redacted):
            told = Span(frame.session, event.version, event.version + 1)
            gone, before = self._gone.get(ref, []), self._told.get(ref, [])
            if minus([told], [*gone, *before]):
                what = f"version {event.version} of session {frame.session!r} is redacted by it"
                self._notes.add(frame.position, f"{what} and still has its payload")
            self._gone[ref] = minus(gone, [told])
            self._told[ref] = hidden_with(before, [told])

    def finish(self) -> None:
        """Note the payloads that are gone without a reason; every fact could be read."""
        for ref, spans in self._gone.items():
            for span in spans:
                what = f"the payloads of versions {span.start} to {span.stop - 1} of session "
                what += f"{span.session!r} are gone and no fact says why"
                self._notes.add(self._newest[ref], what)

    def rows(self) -> set[bytes]:
        """Return the keys in the table `meta` that there must be."""
        keys = {HIDDEN_KEY + REF.pack(ref) for ref in self.hidden}
        keys |= {ERASED_KEY + REF.pack(ref) for ref in self.erased}
        return keys | {ERASURES_KEY} if keys or self._newest else keys
