"""What must hold after any crash: the story is there up to the end of some append, and is of use.

Invariants: a store is looked at as its users do, by opening it; it holds all that was acknowledged,
nothing that was never said, no part of an append; the log, its head, its proofs, its views and its
copies agree.
"""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from scenarios import AGAIN, COPY, DOOMED, PLACE, key_of, keyring, said_in, shown

from eventstore import EventStore
from eventstore.audit.heads import Heads
from eventstore.audit.leaves import log_entries
from eventstore.audit.proof import Prover
from eventstore.audit.tree import EMPTY_ROOT, Frontier, leaf_hash
from eventstore.audit.trust import LAST_NOTE, audit_directory
from eventstore.audit.verify import verify
from eventstore.care.backup import restore
from eventstore.log.format import MARKER
from eventstore.place.directory import INCREMENTS
from eventstore.place.opening import UNFINISHED
from eventstore.state.caches import VIEWS
from eventstore.state.snapshots import LmdbSnapshots
from projections import SessionState, Views

ANEW = "anew"
"""Where a copy is restored after the crash."""


@dataclass
class Model:
    """The whole story: what is at each position, and the root at each size the log may have."""

    events: list[str]
    roots: dict[int, str]

    @classmethod
    def of(cls, root: Path, said: list[str]) -> "Model":
        """Read the finished store; its sizes between two appends are those that were said."""
        ring = keyring(root) if "encrypted" in said else None
        with EventStore.open(root / PLACE, read_only=True, keyring=ring) as store:
            assert verify(store, deep=True).findings == []
            entries = log_entries(store.log, 0, store.head().size)
            events = [shown(each) for each in said_in(store)]
        frontier, roots = Frontier(), {0: EMPTY_ROOT.hex()}
        kinds = ("size", "early", "between")
        sizes = {int(each.split()[1]) for each in said if each.startswith(kinds)}
        # Before a scenario begins, and with a command that creates, each event is an append.
        sizes |= set(range(1, min(sizes) + 1))
        for entry in entries:
            frontier.extend([leaf_hash(entry)])
            if frontier.size in sizes:
                roots[frontier.size] = frontier.root().hex()
        return cls(events, roots)


@dataclass
class Facts:
    """What a writer was told when the crash came; `settled` lines before the newest commit."""

    said: list[str]
    settled: int
    model: Model

    def newest(self, *kinds: str) -> int:
        """Return the largest number told with one of these words, -1 for none."""
        told = [int(each.split()[1]) for each in self.said if each.startswith(kinds)]
        return max(told, default=-1)

    @property
    def made(self) -> bool:
        """True once a store was opened."""
        return "made" in self.said

    @property
    def written(self) -> list[str]:
        """What the facts were before an erasure took some of them."""
        return [each.removeprefix("fact ") for each in self.said if each.startswith("fact ")]

    @property
    def size(self) -> int:
        """How many events must be there: all acknowledged, early ones if committed since then."""
        early = Facts(self.said[: self.settled], 0, self.model).newest("early")
        return max(self.newest("size"), early, 0)


def check(root: Path, facts: Facts) -> None:
    """Assert that the store opens with all that was acknowledged, whole, sound and of use."""
    assert not facts.made or (root / PLACE / MARKER).exists(), "the store is gone"
    ring = keyring(root) if "encrypted" in facts.said else None
    had_views = (root / PLACE / VIEWS).exists()
    with EventStore.open(root / PLACE, keyring=ring) as store:
        assert store.distrust is None
        assert isinstance(store.headers._snapshots, LmdbSnapshots), "snapshots stay off the disk"
        if facts.made:
            check_log(store, facts, facts.size)
        else:  # it may be made only now, with facts about itself that are its own
            assert check_events(store, facts) == 0
        if facts.written:
            check_erasure(store, facts)
        assert not list((root / PLACE).glob(f"{UNFINISHED}*")), "half a compaction is left"
        if audit_directory(root / PLACE).exists():
            check_evidence(store, root, facts)
        use(store)
        if had_views:
            check_views(store)
        report = verify(store, deep=True)
        assert report.findings == [], report.findings
    if facts.newest("copied", "added") >= 0:
        restore(root / COPY, root / ANEW)
    for place, *least in ((ANEW, "copied", "added"), (COPY, "copied"), (AGAIN, "restored")):
        check_copy(root / place, facts, facts.newest(*least))


def check_log(store: EventStore, facts: Facts, least: int) -> None:
    """Assert that the log is the story up to the end of some append, at least that of `least`."""
    size = store.head().size - completed(store, facts)
    assert size >= least, f"{size} events, {least} were acknowledged"
    assert size in facts.model.roots, f"{size} events end in the midst of an append"
    root = Prover.of(store.log).root(size)
    assert root.hex() == facts.model.roots[size], "the root is another one"
    check_events(store, facts)


def completed(store: EventStore, facts: Facts) -> bool:
    """Return True where the opening completed an erasure: the last fact is its own."""
    newest = next(store.all(max(store.head().size - 1, 0)), None)
    if newest is None or newest.type != "KeyShredded":
        return False
    return shown(newest) not in facts.model.events


def check_events(store: EventStore, facts: Facts) -> int:
    """Assert that the events begin the story, but for what a store notes about itself.

    A fact that was to be erased may still be as it was written.
    """
    events = [shown(each) for each in said_in(store)]
    events = events[: len(events) - (facts.made and completed(store, facts))]
    for event, after, before in zip_longest(events, facts.model.events, facts.written):
        assert event in (after, before, None), f"the story has {after}"
    return len(events)


def check_erasure(store: EventStore, facts: Facts) -> None:
    """Assert that a session was erased as a whole, or that nobody had asked for it."""
    types = [each.type for each in store.events(DOOMED)]
    asked = "EraseRequested" in types
    assert asked or "erased" not in facts.said, "an erasure is gone"
    assert types[-1] == "KeyShredded" if asked else not store.log.erasing()
    written = said_in(store)[: len(facts.written)]
    doomed = [each for each in written if each.session == DOOMED]
    assert all(each.erased == asked for each in doomed), "some facts are erased, others not"
    assert not any(each.erased for each in written if each.session != DOOMED)


def use(store: EventStore) -> None:
    """Assert that the store takes new facts and gives them back."""
    store.create("after the crash")
    receipt = store.append("after the crash", {"content": "still of use"}, key="after")
    assert (
        receipt.version == 1
        and store.append("after the crash", {"content": "still of use"}, key="after").duplicate
    )
    messages = SessionState.of(store, "after the crash").messages
    assert [each.content for each in messages] == ["still of use"]


def check_views(store: EventStore) -> None:
    """Assert that the views on disk say what views made anew from the facts say."""
    with EventStore.open(store.path, read_only=True) as reader:
        views, fresh = Views(store), Views(reader)
        for name in ("catalog", "branches", "statistics"):
            assert views.state(name) == fresh.state(name), f"view {name} is not of these facts"


def check_evidence(store: EventStore, root: Path, facts: Facts) -> None:
    """Assert that the head signed last is a prefix of the log, none older than was handed out."""
    heads = Heads(store, key_of(store), audit_directory(root / PLACE) / LAST_NOTE)
    last = heads.check()
    assert (last.size if last else -1) >= facts.newest("signed"), "a signed head is gone"
    heads.sign()


def check_copy(place: Path, facts: Facts, least: int) -> None:
    """Assert that a copy is a sound store of some moment, or is not there at all."""
    if least < 0 and not place.exists():
        return
    assert place.exists(), "a copy that was finished is gone"
    increments = (place / INCREMENTS).is_dir()  # then it is read, or restored, and not written to
    with EventStore.open(place, read_only=increments) as store:
        assert check_events(store, facts) >= least
        assert verify(store).findings == []
