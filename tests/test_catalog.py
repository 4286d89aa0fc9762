"""The catalogue: its fast path is the loop over events, and its lists show every row in order."""

import pytest
from driver import STEPS, Driver, ticking
from hypothesis import given
from hypothesis import strategies as st
from viewed import filled, say

from eventstore import EventStore, InvalidEvent
from projections import CatalogRow, Projection, SessionPage, Views, fold
from projections.catalog import ORDERS, CatalogProjection, selection


class Slow(CatalogProjection):
    """The catalogue without its fast path."""

    evolve_frame = Projection.evolve_frame


@given(STEPS)
def test_heads_of_a_frame_move_a_row_as_its_events_do(steps):
    """The catalogue's fast path over message frames equals the loop over events."""
    with EventStore.in_memory(clock=ticking()) as store:
        driver = Driver(store)
        for step in steps:
            driver.run(step)
        rows = fold(store, CatalogProjection(store.headers))
        assert rows == fold(store, Slow(store.headers))


def test_lists_filter_by_user_metadata_and_status(store):
    """Users and metadata match by equality; archived and deleted sessions are asked for by name."""
    filled(store, 6)
    store.update_metadata("s4", {"n": 2, "tags": ["x"]})
    store.archive("s5")
    store.delete("s3")
    store.close("s1")
    views = Views(store)

    def names(**how):
        return [row.session for row in views.sessions(order="session", **how)]

    assert names() == ["b0", "s0", "s1", "s2", "s4"]
    assert names(user="u0") == ["b0", "s0", "s2", "s4"]
    assert names(where={"n": 2}) == ["s2", "s4"]
    assert names(where={"n": 2, "tags": ["x"]}) == ["s4"]
    assert names(where={"missing": None}) == []
    assert names(status={"archived", "deleted"}) == ["s3", "s5"]
    assert names(user="nobody") == []


def test_the_usual_order_is_newest_first():
    """Without an order a list begins with what was touched last."""
    store = EventStore.in_memory(clock=ticking())
    filled(store)
    say(store, "s1", "more")
    assert [row.session for row in Views(store).sessions()] == ["s1", "b0", "s2", "s0"]


ROWS = st.lists(
    st.builds(
        CatalogRow,
        session=st.text("abc", min_size=1, max_size=3),
        updated_at=st.integers(0, 3),
        created_at=st.integers(0, 3),
        messages=st.integers(0, 3),
        tokens=st.integers(0, 3),
    ),
    unique_by=lambda row: row.session,
    max_size=12,
)


@given(ROWS, st.sampled_from(ORDERS), st.booleans(), st.integers(1, 5))
def test_cursors_show_every_row_once_in_order(rows, order, down, limit):
    """The pages put together are the sorted list, for every order and page size."""
    wanted = sorted(rows, key=lambda row: (getattr(row, order), row.session), reverse=down)
    found, after = [], None
    while True:
        page = selection(order="-" * down + order, limit=limit, after=after).page(rows)
        found += page.rows
        after = page.next
        if after is None:
            break
        assert len(page) == limit
    assert found == wanted
    assert selection(order="-" * down + order, limit=None).page(rows) == SessionPage(wanted)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("down", [False, True])
def test_a_list_of_a_view_is_the_sorted_catalogue(store, order, down):
    """Paged through a view, also one that moved on by steps, each order shows every row once."""
    views = Views(store)
    for step in 4, 7:
        for number in range(step):
            session = f"s{step}{number % 3}-{number}"
            store.create(session, user=f"u{number % 2}")
            store.append(session, [{"role": "user", "content": "x" * number}] * (number % 3 + 1))
        store.append(f"s{step}0-0", {"role": "user"})
        for user in None, "u1":
            catalogue = fold(store, CatalogProjection(store.headers)).values()
            rows = [row for row in catalogue if user in (None, row.user)]
            rows.sort(key=lambda row: (getattr(row, order), row.session), reverse=down)
            found, after = [], None
            while True:
                page = views.sessions(user=user, order="-" * down + order, limit=2, after=after)
                found += page.rows
                if (after := page.next) is None:
                    break
            assert found == rows


@pytest.mark.parametrize(
    "how",
    [
        {"order": "age"},
        {"order": "--tokens"},
        {"limit": 0},
        {"limit": "9"},
        {"limit": True},
        {"after": "rubbish"},
        {"after": ""},
        {"after": "é"},
        {"after": "kqF4"},
    ],
)
def test_a_list_that_means_nothing_is_refused(store, how):
    """Unknown orders, odd limits and cursors of nowhere are InvalidEvent."""
    with pytest.raises(InvalidEvent):
        Views(store).sessions(**how)


def test_a_cursor_of_another_order_is_refused(store):
    """A cursor goes on with the list it came from and with no other."""
    filled(store)
    views = Views(store)
    page = views.sessions(order="session", limit=1)
    assert [row.session for row in views.sessions(order="session", limit=1, after=page.next)] == [
        "s0"
    ]
    for order in "-session", "tokens":
        with pytest.raises(InvalidEvent):
            views.sessions(order=order, after=page.next)


def test_rows_are_plain_json(store):
    """A row's to_dict() has what lists show."""
    filled(store)
    row = Views(store).sessions(where={"n": 1}).rows[0].to_dict()
    assert (row["session"], row["user"], row["messages"], row["status"]) == (
        "s1",
        "u1",
        2,
        "active",
    )
