"""A learned time to live: told from the pauses of sessions that went on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, InvalidEvent
from eventstore.sessions import SessionManager, Settings
from eventstore.sessions.learning import PAUSES_MIN

SECOND = 1_000_000_000


def filled(manager: SessionManager, sessions: list[list[int]]) -> list[int]:
    """Make sessions with these pauses in seconds between messages; return all above 0, sorted."""
    for number, pauses in enumerate(sessions):
        made = manager.create(metadata={"type": "dm" if number % 2 == 0 else "group"})
        at = 0
        for pause in [0, *pauses]:
            at += pause * SECOND
            manager.add_message(made.name, {"role": "user", "content": "."}, occurred_at=at)
    return sorted(pause for pauses in sessions for pause in pauses if pause)


@given(
    sessions=st.lists(st.lists(st.integers(0, 10_000), max_size=30), max_size=4),
    share=st.floats(0.01, 1),
)
def test_it_is_a_quantile_of_the_pauses(sessions, share):
    """No shorter time covers that share of the pauses; fewer than PAUSES_MIN say nothing."""
    with EventStore.in_memory() as store, SessionManager(store, Settings()) as manager:
        pauses = filled(manager, sessions)
        found = manager.learned_ttl(share=share)
        if len(pauses) < PAUSES_MIN:
            assert found is None
            return
        assert found in pauses
        assert sum(pause <= found for pause in pauses) >= share * len(pauses) - 1e-9
        assert sum(pause < found for pause in pauses) < share * len(pauses) + 1e-9
        assert found == pauses[math.ceil(share * len(pauses)) - 1]


def test_sessions_of_a_kind_learn_from_their_own():
    """`user` and `where` choose what is learned from, and the answer is a ttl that create takes."""
    with EventStore.in_memory() as store, SessionManager(store, Settings()) as manager:
        filled(manager, [[60] * 40, [3_600] * 40])
        assert manager.learned_ttl(where={"type": "dm"}) == 60
        assert manager.learned_ttl(where={"type": "group"}) == 3_600
        assert manager.learned_ttl() == 3_600 and manager.learned_ttl(share=0.5) == 60
        assert manager.learned_ttl(user="nobody") is None
        made = manager.create(ttl=manager.learned_ttl(where={"type": "dm"}))
        assert made.ttl == 60


@pytest.mark.parametrize("share", [0, -1, 1.5, "all", None, True, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    """A share is a number above 0, up to 1."""
    with (
        EventStore.in_memory() as store,
        SessionManager(store, Settings()) as manager,
        pytest.raises(InvalidEvent, match="share must be"),
    ):
        manager.learned_ttl(share=share)
