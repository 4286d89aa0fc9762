"""What the demo does to a real conversation: every kind of change, journalled as it happens.

Invariants: each change is made twice, by a command of the store and by list operations in the
journal; the four strategies of merge take turns from story to story.
"""

from typing import NamedTuple

from .. import EventStore, Receipt
from ..state.decisions import STRATEGIES
from .journal import Journal

KEEP_LAST = 6
SHORTEST = 12
"""Messages a conversation must have for a story."""


class Counts(NamedTuple):
    """How many changes of each kind the stories made."""

    branches: int = 0
    merges: int = 0
    prunes: int = 0
    summaries: int = 0
    undos: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the sums."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Story:
    """One conversation of the store and what becomes of it."""

    def __init__(self, store: EventStore, journal: Journal, session: str, number: int) -> None:
        self.store, self.journal = store, journal
        self.session, self.number = session, number
        self.fork = len(journal.now(session)) // 2
        self.strategy = STRATEGIES[number % len(STRATEGIES)]
        self.said = 0

    @property
    def branch(self) -> str:
        """The name of its branch."""
        return f"{self.session}/again"

    def tell(self) -> Counts:
        """Branch, go on, merge, prune, summarise, undo twice, and rewind; return what was done."""
        self._branch()
        self._go_on()
        self._merge()
        pruned = self._prune()
        self._summarize(pruned)
        self._undo_and_rewind()
        return Counts(branches=2, merges=1, prunes=1, summaries=1, undos=3)

    def _say(self, session: str, *texts: str) -> None:
        messages = [{"role": "user", "content": text} for text in texts]
        self.said += len(texts)
        receipt = self.store.append(session, messages)
        self.journal.note(receipt, [*self.journal.now(session), *texts])

    def _branch(self) -> None:
        """Branch at a version in the past, and branch the branch."""
        store, journal = self.store, self.journal
        past = journal.then(self.session, "version", self.fork) or []
        receipt = store.branch(self.session, self.branch, at=self.fork, name="asked again")
        journal.note(receipt, past)
        receipt = store.branch(self.branch, f"{self.branch}/deeper", name="and again")
        journal.note(receipt, past)

    def _go_on(self) -> None:
        """Let all three go on their own."""
        self._say(self.branch, "What if we began again from here?", "Then it would go like this.")
        self._say(f"{self.branch}/deeper", "One more try.")
        self._say(self.session, "Meanwhile the conversation went on.")

    def _merge(self) -> None:
        """Bring the branch's messages home by the strategy whose turn it is."""
        squash = "In the other branch they began again." if self.strategy == "squash" else None
        before = self.journal.now(self.session)
        news = self.journal.now(self.branch)[self.fork :]
        receipt = self.store.merge(
            self.branch, into=self.session, strategy=self.strategy, summary=squash
        )
        texts = {
            "append": before + news,
            "adopt": before[: self.fork] + news,
            "interleave": before[:-1] + news + before[-1:],
            "squash": [*before, squash or ""],
        }
        self.journal.note(receipt, texts[self.strategy])

    def _prune(self) -> Receipt:
        """Keep the newest messages only."""
        receipt = self.store.prune(self.session, keep_last=KEEP_LAST, reason="demo")
        self.journal.note(receipt, self.journal.now(self.session)[-KEEP_LAST:])
        return receipt

    def _summarize(self, pruned: Receipt) -> None:
        """Go on, then let one summary stand for what was there before."""
        self._say(self.session, "After the prune they went on.")
        summary = "They talked about many things."
        receipt = self.store.summarize(self.session, summary, upto=pruned.version)
        self.journal.note(receipt, [summary, self.journal.now(self.session)[-1]])

    def _undo_and_rewind(self) -> None:
        """Undo the summary, undo the undo, undo that; every other story rewinds to its fork."""
        entries = self.journal.entries[self.session]
        summarized, before = entries[-1].shown(), entries[-2].shown()
        for texts in (before, summarized, before):
            self.journal.note(self.store.undo(self.session), texts)
        if self.number % 2:
            past = self.journal.then(self.session, "version", self.fork) or []
            self.journal.note(self.store.rewind(self.session, self.fork), past)
