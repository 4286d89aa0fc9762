"""What tests of views fill a store with, a view that counts, and whether views are right."""

from driver import folded

from eventstore import EventStore
from projections import BranchTree, Projection, Statistics, Views, fold
from projections.branches import BranchesProjection
from projections.catalog import CatalogProjection, row_of


class Steps(Projection[int]):
    """Counts events, and in `taken` what it was shown in this process."""

    name = "steps"

    def __init__(self):
        self.taken = []

    def initial(self):
        return 0

    def evolve(self, state, recorded):
        self.taken.append(recorded.position)
        return state + 1


def say(store: EventStore, session: str, *texts: str) -> None:
    """Append these texts at once."""
    store.append(session, [{"role": "user", "content": text} for text in texts])


def filled(store: EventStore, sessions: int = 3) -> None:
    """Make some sessions of different length and a branch."""
    for number in range(sessions):
        store.create(f"s{number}", user=f"u{number % 2}", metadata={"n": number})
        say(store, f"s{number}", *["word"] * (number + 1))
    store.branch("s0", "b0", at=1)


def agree(store: EventStore, views: Views) -> None:
    """Every view equals the fold on demand, and every row the plain fold of its session."""
    assert views.statistics() == Statistics.of(store)
    assert views.state("catalog") == fold(store, CatalogProjection(store.headers))
    assert views.state("branches") == fold(store, BranchesProjection(store.log))
    assert views.state("catalog") == {
        session: row_of(folded(store, session, store.version(session)))
        for session in store.sessions()
    }
    for session in store.sessions():
        assert views.tree(session) == BranchTree.of(store, session)
    for name in "catalog", "branches", "statistics":
        assert views.checkpoint(name) == store.head().size
