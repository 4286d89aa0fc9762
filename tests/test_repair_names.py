"""Repair of names: who did what in which session is told right, or as lost, never wrong."""

import random
import shutil

import pytest
from mended import ACTOR, PAGE, Damage, Original, repaired

from eventstore import EventStore
from eventstore.audit.pages import PageFile
from eventstore.care.repair import repair
from eventstore.ids import SYSTEM
from eventstore.log.format import ACTORS, DICTIONARIES, FRAME_HEAD_BYTES, REF
from eventstore.log.rows import checked_row, ref_row
from eventstore.place.directory import LOG


def put(original: Original, table: bytes, page: bytes) -> Damage:
    """Return the damage of another page in the place of a table's root."""

    def replaced(_: random.Random, content: bytearray) -> None:
        at = root_of(original, table)
        content[at : at + PAGE] = page

    return replaced


def root_of(original: Original, table: bytes) -> int:
    """Return where in the file the root page of a table is."""
    with PageFile(original.place / LOG / "data.mdb") as file:
        return file.tables(file.metas()[0])[table].root * PAGE


def page_of(original: Original, table: bytes) -> bytes:
    """Return the root page of a table."""
    at = root_of(original, table)
    return original.content[at : at + PAGE]


def ref_of(original: Original, session: str) -> int:
    """Return the reference of a session."""
    return next(ref for ref, name in original.names.items() if name == session)


def test_a_page_of_actors_holds_no_dictionary(plain, encrypted, tmp_path):
    """Rows of actors are as whole as dictionaries and numbered like them, and are none."""
    for original in (plain, encrypted):
        place = tmp_path / original.place.parent.name
        report = repaired(original, place, put(original, DICTIONARIES, page_of(original, ACTORS)))
        assert report.size_known and not report.unnamed
        assert (original is plain) or report.whole


def test_a_page_of_dictionaries_holds_no_actor(plain, tmp_path):
    """Nor the other way round: then the table from names to references says them."""
    page = page_of(plain, DICTIONARIES)
    assert repaired(plain, tmp_path, put(plain, ACTORS, page)).whole


def test_an_actor_that_is_lost_is_said_by_its_reference(plain, tmp_path):
    """Where no row of actors has it any more, that of references does."""
    assert repaired(plain, tmp_path, lambda _, content: lose_actor(plain, content, ACTOR)).whole


@pytest.mark.parametrize("bit", range(5))
def test_a_name_is_not_believed_under_another_number(plain, tmp_path, bit):
    """Where a bit of its key is hit, a row of actors would give its name to another one."""
    number = REF.pack(ref_of(plain, ACTOR))
    row = checked_row(b"a" + ACTOR.encode(), number)

    def moves(_: random.Random, content: bytearray) -> None:
        assert number + row in content
        content[:] = content.replace(number + row, number[:3] + bytes([number[3] ^ 1 << bit]) + row)

    assert repaired(plain, tmp_path, moves).whole


@pytest.mark.parametrize("session", ["s1", "bulk", SYSTEM])
def test_a_session_without_its_beginning_is_named_by_its_reference(
    encrypted, plain, tmp_path, session
):
    """Where no first frame has the name any more, the table of references does."""
    original, lost = encrypted if session == SYSTEM else plain, list[int]()

    def loses(_: random.Random, content: bytearray) -> None:
        lost.append(lose_beginning(original, content, session))

    report = repaired(original, tmp_path, loses)
    assert not report.unnamed and report.kept == report.events - sum(lost)


@pytest.mark.parametrize("at", range(len(b"ss1") + len(ref_row(b"ss1", REF.pack(1)))))
def test_no_name_is_made_of_a_damaged_reference(plain, tmp_path, at):
    """Where its first frame is lost too, a session says so: it gets no name that none had."""
    row = bytearray(reference(plain, "s1"))
    row[at] ^= 1

    def loses(_: random.Random, content: bytearray) -> None:
        lose_beginning(plain, content, "s1")
        content[:] = content.replace(reference(plain, "s1"), row)

    assert repaired(plain, tmp_path, loses).unnamed == [f"lost name {ref_of(plain, 's1')}"]


def test_no_name_is_taken_from_another_by_a_damaged_reference(plain, tmp_path):
    """A row of references may be hit so that it leads to a session whose own name is lost."""
    s1, s2 = reference(plain, "s1"), reference(plain, "s2")

    def mixes_up(_: random.Random, content: bytearray) -> None:
        lose_beginning(plain, content, "s1")
        content[:] = content.replace(s1, bytes(len(s1)))
        content[:] = content.replace(s2, s2[:3] + REF.pack(ref_of(plain, "s1")) + s2[7:])

    assert repaired(plain, tmp_path, mixes_up).unnamed == [f"lost name {ref_of(plain, 's1')}"]


def test_a_first_frame_of_a_commit_that_never_was_names_no_session(tmp_path):
    """Its page was written, its head was not: another session got its number and position."""
    place, other = tmp_path / "history", tmp_path / "other"
    with EventStore.open(place) as store:
        store.create("first")
    shutil.copytree(place, other)
    with EventStore.open(other) as store:
        store.create("never")
    with EventStore.open(place) as store:
        store.create("there")
        for number in range(60):
            store.append("there", {"role": "user", "content": f"line {number}"})
        [first] = store.log.read_stream("there", 0, frames_max=1)
    file = place / LOG / "data.mdb"
    content = file.read_bytes().replace(first.raw, first.raw[:-1] + b"?")
    content = content.replace(first.raw[:60], bytes(60))
    file.write_bytes(content + (other / LOG / "data.mdb").read_bytes())
    report = repair(place, tmp_path / "made")
    assert not report.unnamed and report.positions == [(first.position, first.position + 1)]
    with EventStore.open(tmp_path / "made") as store:
        assert list(store.sessions()) == ["first", "there"] and store.version("there") == 60


def lose_actor(original: Original, content: bytearray, actor: str) -> None:
    """Damage the last letter of an actor's name in all rows of `actors`."""
    row = checked_row(b"a" + actor.encode(), REF.pack(ref_of(original, actor)))
    assert row in content
    content[:] = content.replace(row, row[:-1] + b"x")


def lose_beginning(original: Original, content: bytearray, session: str) -> int:
    """Damage the name in all copies of a session's first frame; return how many events it has."""
    [first] = [each for each in original.frames if (each.session, each.version) == (session, 0)]
    whole = first.raw[: first.raw.index(session.encode(), FRAME_HEAD_BYTES) + len(session)]
    assert whole in content
    content[:] = content.replace(whole, whole[:-1] + b"x")
    return first.count


def reference(original: Original, session: str) -> bytes:
    """Return a row of references as it stands in the file: its key, then its value."""
    name = b"s" + session.encode()
    return name + ref_row(name, REF.pack(ref_of(original, session)))
