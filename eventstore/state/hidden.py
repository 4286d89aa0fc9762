"""Hidden lines: what was redacted, or said in an erased session, leaves every visible list.

Invariants: a state is folded with all its lines, then those that are hidden are left out of its
list and of its tokens, whatever version it is of and however the lines came into it; so a line
that is hidden today was never visible, and what is folded or saved doesn't depend on it.
"""

from collections.abc import Callable, Mapping, Sequence

from ..errors import KeyShredded
from ..events import Span
from ..log.base import Log, T
from ..spans import minus
from .header import SessionHeader
from .transcript import tokens_of

TOKENS_CACHED_MAX = 10_000
"""Runs of hidden lines whose tokens are remembered."""


def settled(log: Log, read: Callable[[], T]) -> T:
    """Return what `read` gives of a session and its lines, read anew if some went meanwhile.

    Raises KeyShredded only where nothing did: what is asked for was erased before.
    """
    while True:
        erasures = log.erasures()
        try:
            return read()
        except KeyShredded:
            if log.erasures() == erasures:
                raise


class Hidden:
    """The lines that no list may show, by session, as a log's erasure count stands."""

    def __init__(self, log: Log, lines: Mapping[str, Sequence[Span]]) -> None:
        self._log, self._lines = log, lines
        self._tokens: dict[Span, int] = {}
        seal = log.codec.seal
        self._outlived = frozenset(seal.gone.values() if seal else ())

    def left_out(self, header: SessionHeader) -> SessionHeader:
        """Return the header, which is given away, without the hidden lines.

        In a copy of before an erasure that can't be written, no fact says that it is erased.
        """
        if header.session in self._outlived:
            header.status = "erased"
        sessions = {span.session for span in header.spans}
        hidden = [span for session in sessions for span in self._lines.get(session, ())]
        shown = minus(header.spans, hidden) if hidden else header.spans
        if shown != header.spans:
            lost = minus(header.spans, shown)
            header.spans = shown
            header.tokens -= sum(map(self._tokens_in, lost))
        return header

    def _tokens_in(self, span: Span) -> int:
        known = self._tokens.get(span)
        if known is None:
            if len(self._tokens) >= TOKENS_CACHED_MAX:
                self._tokens.clear()
            known = self._tokens[span] = tokens_of(self._log, [span])
        return known
