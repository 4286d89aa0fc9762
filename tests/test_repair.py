"""Repair: whatever is damaged, all that is whole is in the new store and nothing else is."""

import random
import re
import shutil
from collections.abc import Callable, Container, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest
from driver import Driver, steps_of, ticking
from facts import told
from msgspec.structs import replace
from refused import left_over, lines, refuse

from eventstore import EventStore, FormatTooNew, Keyring, StoreLocked, StoreUnavailable
from eventstore.audit.pages import LEAF, PageFile, page_kind
from eventstore.audit.verify import verify
from eventstore.care.mending import LOST, LOST_TEXT, LostPart
from eventstore.care.repair import Repaired, repair
from eventstore.events import (
    AnyEvent,
    BranchMerged,
    Custom,
    EraseRequested,
    HistorySummarized,
    KeyCreated,
    KeyShredded,
    MessageAppended,
    Redacted,
    SessionCreated,
    Span,
)
from eventstore.ids import SYSTEM
from eventstore.log.format import ACTORS, DICTIONARIES, FRAME_HEAD_BYTES, POSITION, REF
from eventstore.log.frame import Frame
from eventstore.log.rows import checked_row, ref_row
from eventstore.place.directory import LOG
from projections.session import SessionState

PAGE, PAGE_HEAD_BYTES = 4096, 16
SEEDS = [*range(8), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(8, 400))]
"""What damage is drawn from: some always, the others by hand and nightly."""
TOKENS_OFF = re.compile(r"counts -?\d+ tokens, its lines hold \d+$")
SECRET = "the gate's code is 4711"
ACTOR = "user:root"
"""The only one of these stores."""


class Original:
    """A closed store as it was: its frames, what each event says, and the bytes of its file."""

    def __init__(
        self, place: Path, keyring: Keyring | None, older: dict[tuple[str, int], str]
    ) -> None:
        self.place, self.keyring, self.older = place, keyring, older
        self.content = (place / LOG / "data.mdb").read_bytes()
        with EventStore.open(place, read_only=True, keyring=keyring) as store:
            self.head = store.head()
            self.frames = list(frames(store))
            self.said = {each.position: shown(each) for each in store.all()}
            self.was = {(session, version): said for session, version, said in self.said.values()}
            self.events = {(e.session, e.version): e.structure for e in store.all()}
            self.names = {frame.session_ref: frame.session for frame in self.frames}
            self.names |= {frame.actor_ref: frame.actor for frame in self.frames if frame.actor}

    def says(self, recorded) -> str:
        """Return what an event of a repaired store says, lost names as they were."""
        found = shown(recorded)[2]
        for ref, name in self.names.items():
            for end in "'#":
                found = found.replace(f"lost name {ref}{end}", f"{name}{end}")
        return found

    def is_said(self, recorded, where: tuple[str, int]) -> bool:
        """Return True for what one event said, now or before it was redacted."""
        return self.says(recorded) in (self.was.get(where), self.older.get(where))

    def intact(self, damaged: bytes, report: Repaired) -> set[int]:
        """Return the positions of the frames of which a whole copy is left somewhere.

        Beyond the size that the log is known to have nothing counts as committed; where that is
        lost too, all that stands behind its key does, since the key says its position.
        """
        whole = [
            frame
            for frame in self.frames
            if stands_behind_key(frame, damaged)
            if frame.position < report.events or not report.size_known
        ]
        alone = [
            frame
            for frame in self.frames
            if stands_alone(frame, damaged)
            if frame.position < report.events
        ]
        return {p for each in whole + alone for p in range(each.position, each.last_position + 1)}


def stands_behind_key(frame: Frame, content: bytes) -> bool:
    """Return True where a frame stands whole behind its key."""
    return POSITION.pack(frame.last_position) + frame.raw in content


def stands_alone(frame: Frame, content: bytes) -> bool:
    """Return True where a frame stands whole on pages of its own."""
    at = content.find(frame.raw)
    return at >= 0 and at % PAGE == PAGE_HEAD_BYTES


def frames(store: EventStore):
    """Iterate over the frames of a store."""
    position = 0
    while position < store.log.size():
        for frame in store.log.read_all(position):
            yield frame
            position = frame.last_position + 1


def shown(recorded) -> tuple[str, int, str]:
    """Return what an event says, as comparable text, and where in its session."""
    event, names = recorded.structure, (recorded.actor, recorded.occurred_at, recorded.recorded_at)
    return recorded.session, recorded.version, repr((event, names))


def is_placeholder(recorded) -> bool:
    """Return True for what repair puts where something was lost."""
    event = recorded.structure
    if isinstance(event, MessageAppended):
        return event.message.fields["content"] == LOST_TEXT
    if isinstance(event, SessionCreated):
        return event.metadata == {LOST: True}
    return isinstance(event, Custom) and event.name == LOST


def is_half_of(event: AnyEvent, recorded) -> bool:
    """Return True for a half of a merge that was written anew: all that its other half says."""
    found = recorded.structure
    bare = {"metadata": {}, "context": {}, "summary": None}
    return replace(found, **bare) == replace(event, **bare)


def made(place: Path, keyring: Keyring | None = None, size: int = 60) -> Original:
    """Make a store with everything in it: bulk, merges, branches, keys, a trained dictionary.

    Three times a group of commands finds no room; of each something is left on free pages.
    """
    clock = ticking()
    older: dict[tuple[str, int], str] = {}

    def opened(durability: str) -> EventStore:
        return EventStore.open(
            place, clock=clock, durability=durability, keyring=keyring, max_depth=50
        )

    with opened("buffered") as store:
        driver = Driver(store)
        for step in steps_of(11, size):
            driver.run(step)
        store.create("bulk", user="user:7")
    with opened("sync") as store:
        refuse(store, never(driver.sessions, 150), 60)
    with opened("buffered") as store:
        driver.store = store
        for number in range(12):
            line = {"role": "user", "content": f"line {number} " * 30}
            store.append("bulk", [line] * 9, key=f"key {number}")
        store.append("bulk", {"role": "tool", "content": random.Random(1).randbytes(9_000).hex()})
        summary = store.summarize("bulk", "in short", upto=9).version
        older = {("bulk", each): shown(event_at(store, each))[2] for each in (7, summary)}
        for version in (7, summary):
            store.redact("bulk", version, reason="a password")
            store.append("bulk", [{"role": "user", "content": "more"}] * 3)
    with opened("sync") as store:
        refuse(store, never(driver.sessions, 150), 60)
    with opened("buffered") as store:
        driver.store = store
        if keyring is not None:
            store.create("private")
            store.append("private", {"content": SECRET})
            first = next(store.events("private"))
            # The key of an older copy is destroyed, so that not even its residue can be made.
            said = None, (first.actor, first.occurred_at, first.recorded_at)
            older["private", 0] = repr(said)
            store.erase("private", reason="asked for")
        for step in steps_of(12, size):
            driver.run(step)
    with opened("sync") as store:
        refuse(store, never(driver.sessions, 150), 1)
    return Original(place, keyring, older)


def never(sessions: Sequence[str], count: int) -> list:
    """Return calls that are to be refused: of sessions that there are, and of some others."""
    made = []
    for number in range(count):
        name = f"never {number}"
        made += lines(sessions[number % len(sessions)], 1, 1_000, key=f"key {number}", actor=name)
        made += lines("bulk", 1, 1_000, correlation_id=name)
        made += [("create", (name,), {"user": name})] if not number % 5 else []
    return made


def event_at(store: EventStore, version: int):
    """Return the fact of the session `bulk` that has a version."""
    return next(each for each in store.events("bulk") if each.version == version)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Give a store that is not encrypted."""
    return made(tmp_path_factory.mktemp("repair") / "history")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Give an encrypted one."""
    place = tmp_path_factory.mktemp("repair")
    return made(place / "history", Keyring.file(place / "keyring"))


Damage = Callable[[random.Random, bytearray], None]


def flips(source: random.Random, content: bytearray) -> None:
    """Flip single bits anywhere."""
    for _ in range(source.randint(1, 40)):
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)


def zeros(source: random.Random, content: bytearray) -> None:
    """Zero whole pages, the first ones too."""
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(content) // PAGE) * PAGE
        content[at : at + PAGE] = bytes(PAGE)


def swaps(source: random.Random, content: bytearray) -> None:
    """Put one page in another's place."""
    one, other = (source.randrange(2, len(content) // PAGE) * PAGE for _ in range(2))
    content[one : one + PAGE] = content[other : other + PAGE]


def cuts(source: random.Random, content: bytearray) -> None:
    """Cut the end off."""
    del content[source.randrange(2 * PAGE, len(content)) :]


def beheads(source: random.Random, content: bytearray) -> None:
    """Lose both meta pages, so that no tree leads anywhere."""
    content[: 2 * PAGE] = source.randbytes(2 * PAGE)


DAMAGES = (flips, zeros, swaps, cuts, flips, beheads)


def damaged(original: Original, place: Path, damage: Damage, seed: int) -> bytes:
    """Make a damaged copy of a store; returns the bytes of its file."""
    source = random.Random(seed)
    content = bytearray(original.content)
    damage(source, content)
    (place / LOG).mkdir(parents=True)
    shutil.copy(original.place / "eventstore.json", place)
    (place / LOG / "data.mdb").write_bytes(content)
    return bytes(content)


def check(original: Original, content: bytes, place: Path, report: Repaired) -> None:
    """Compare a repaired store with the model: what was, and which of it is left.

    What never was is there only where the report says that nothing proves it.
    """
    doubted, never = unproven(report), set[int]()
    was = original.was
    intact = {original.said[p][:2] for p in original.intact(content, report)}
    intact -= {
        where
        for ref, name in original.names.items()
        for where in intact
        if f"lost name {ref}" in report.unnamed
        and where[0] == name
        and (original.keyring or isinstance(original.events[where], BranchMerged))
    }
    newest = max((version for session, version in intact if session == SYSTEM), default=0)
    lost = {
        (part.session, version)
        for part in report.sessions
        for version in range(part.first, part.last + 1)
    }
    with EventStore.open(place, keyring=original.keyring) as store:
        kept: dict[tuple[str, int], str] = {}
        names = {f"lost name {ref}": name for ref, name in original.names.items()}
        renamed = {names.get(name, name) for name in report.unnamed}
        for each in store.all(limit=report.size):
            where = names.get(each.session, each.session), each.version
            # Behind its end, also where that comes sooner, since nothing else tells of what is lost
            # there; and where its very name is lost, so that none of its facts is there.
            sooner = each.version > newest and where not in intact
            beyond = where not in was or (sooner and shown(each)[2] != was[where])
            anew = beyond or (SYSTEM in renamed and each.version > 0)
            if each.position in doubted and not (
                is_placeholder(each) or original.is_said(each, where)
            ):
                never.add(doubted[each.position])
                continue
            if each.session == SYSTEM and anew:
                assert isinstance(each.structure, KeyCreated), "which key seals what is said anew"
                continue
            if each.type == "BranchMerged" and where not in intact:
                assert is_half_of(original.events[where], each), f"{where} is another merge"
                if shown(each)[2] == was[where]:  # the model did not find it, repair did
                    kept[where] = was[where]
            elif is_placeholder(each) or (each.erased and (each.session, each.version) in lost):
                # An erasure whose end is lost was ended by this opening, of placeholders too.
                other = each.session in renamed  # a second one, which only other facts tell of
                assert other or where not in intact, f"{where} was whole and is a placeholder"
                assert (each.session, each.version) in lost
            else:
                assert original.is_said(each, where), f"{where} was altered"
                kept[where] = original.says(each)
        assert intact <= kept.keys(), "all that was whole is there"
        back = {where for where, said in kept.items() if said != was[where]}
        # Of an old page, and only where nothing that is left tells that it was redacted.
        assert not back & (intact | redacted_by(original, kept))
        check_told(original, report, kept.keys(), never)
        unreasoned = {
            f"session {session!r} are gone and no fact says why"
            for where, event in original.events.items()
            if isinstance(event, (EraseRequested, Redacted)) and where not in kept
            for session in (
                where[0],
                *(name for name in report.unnamed if names.get(name) == where[0]),
            )
        }
        assert [
            each
            for each in told(verify(store, deep=True)).splitlines()
            if not (TOKENS_OFF.search(each) or any(each.endswith(why) for why in unreasoned))
        ] == []
        for session in store.sessions():
            if store.headers.now(session).status not in ("deleted", "erased"):
                list(SessionState.of(store, session).messages)


def unproven(report: Repaired) -> dict[int, int]:
    """Return the positions in the new store of facts that nothing proves, and those they had."""
    return {
        each.first + index: each.was + index
        for each in report.unproven
        for index in range(each.last - each.first + 1)
    }


def check_told(
    original: Original, report: Repaired, kept: AbstractSet[tuple[str, int]], never: set[int]
) -> None:
    """Compare what a report says with what was kept, and where something is that never was."""
    doubt = report.unnamed or report.unproven or report.unproven_names
    assert report.kept == len(kept) + len(never)
    assert report.whole == (len(kept) == report.events and report.size_known and not doubt)
    gone = {p for start, stop in report.positions for p in range(start, stop)}
    there = {p for p in range(report.events) if p in original.said}
    not_kept = {p for p in there if original.said[p][:2] not in kept}
    assert gone & there == not_kept - never and not gone & never


def redacted_by(original: Original, kept: Container[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return what is redacted by facts that were kept."""
    return {
        (where[0], event.version)
        for where, event in original.events.items()
        if isinstance(event, Redacted) and where in kept
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_whole_is_saved_and_nothing_else(plain, tmp_path, seed):
    """Random damage: each event that is left whole is there unaltered, all others are listed."""
    content = damaged(plain, tmp_path / "h", DAMAGES[seed % len(DAMAGES)], seed)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert (tmp_path / "h" / LOG / "data.mdb").read_bytes() == content
    assert sorted(each.name for each in (tmp_path / "h").rglob("*")) == [
        "data.mdb",
        "eventstore.json",
        LOG,
    ]
    check(plain, content, tmp_path / "made", report)


@pytest.mark.parametrize("seed", [*SEEDS[:3], *SEEDS[8:100]])
def test_an_encrypted_store_is_repaired_with_its_keyring(encrypted, tmp_path, seed):
    """Sealed facts come over sealed, placeholders are sealed; what was erased stays erased."""
    content = damaged(encrypted, tmp_path / "h", DAMAGES[seed % len(DAMAGES)], seed)
    report = repair(tmp_path / "h", tmp_path / "made", keyring=encrypted.keyring)
    check_sealed(encrypted, content, tmp_path / "made", report)


def check_sealed(original: Original, content: bytes, place: Path, report: Repaired) -> None:
    """Like check, where payloads of one session are gone for good."""
    for each in place.rglob("*"):
        assert not each.is_file() or SECRET.encode() not in each.read_bytes()
    check(original, content, place, report)


# -- damage that is made, not drawn ------------------------------------------------------------


def hit(original: Original, session: str, *versions: int) -> Damage:
    """Return the damage of a bit in the last byte of all copies of frames with these versions."""

    def flip(_: random.Random, content: bytearray) -> None:
        for frame in original.frames:
            here = range(frame.version, frame.last_version + 1)
            while frame.session == session and set(here) & set(versions) and frame.raw in content:
                content[content.index(frame.raw) + len(frame.raw) - 1] ^= 1

    return flip


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


def repaired(original: Original, place: Path, damage: Damage) -> Repaired:
    """Damage a store, repair and check it."""
    content = damaged(original, place / "h", damage, 0)
    report = repair(place / "h", place / "made", keyring=original.keyring)
    check(original, content, place / "made", report)
    return report


def test_a_placeholder_is_no_hidden_line(plain, tmp_path):
    """What stands for a redacted fact was not redacted, where the fact of that is lost too."""
    summary, redacted = (
        max(where[1] for where, event in plain.events.items() if isinstance(event, kind))
        for kind in (HistorySummarized, Redacted)
    )
    repaired(plain, tmp_path, hit(plain, "bulk", summary, redacted))
    with EventStore.open(tmp_path / "made") as store:
        assert store.log.hidden() == {"bulk": [Span("bulk", 6, 7)]}


@pytest.mark.parametrize("broken", [True, False])
def test_the_newest_copy_that_is_whole_is_taken(tmp_path, broken):
    """Not one of before a redaction, whole or damaged, though it comes first in the file."""
    place = tmp_path / "history"
    with EventStore.open(place) as store:
        store.create("a")
        store.append("a", {"content": SECRET})
        before = store.log.read_all(1)[0]
        store.redact("a", 1)
        after = store.log.read_all(1)[0]
    older, newer = (POSITION.pack(each.last_position) + each.raw for each in (before, after))
    older = older[:-1] + bytes([older[-1] ^ broken])
    file = place / LOG / "data.mdb"
    content = file.read_bytes().replace(older[:-1], bytes(len(older) - 1))
    content = content.replace(newer, bytes(len(newer)))
    file.write_bytes(content + older + bytes(9) + newer)
    report = repair(place, tmp_path / "made")
    assert (report.kept, report.sessions) == (3, [])
    with EventStore.open(tmp_path / "made") as store:
        (_, message, _) = store.events("a")
        assert message.frame.raw == after.raw


@pytest.mark.parametrize("versions", [[3], [1, 3], [2], [2, 3], [0, 1, 2]])
def test_an_erasure_of_which_a_part_is_lost_stays_one(encrypted, tmp_path, versions):
    """Nothing else may come after the fact that asks for it: whoever opens the store ends it.

    Where that fact is lost the end alone counts.
    """
    report = repaired(encrypted, tmp_path, hit(encrypted, "private", *versions))
    assert report.kept == encrypted.head.size - len(versions)
    with EventStore.open(tmp_path / "made", keyring=encrypted.keyring) as store:
        facts = list(store.events("private"))
        assert 2 in versions or isinstance(facts[3].structure, KeyShredded)
        assert all(each.erased or is_placeholder(each) for each in facts[:2])


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


def test_an_actor_that_is_lost_is_said_by_its_reference(plain, tmp_path):
    """Where no row of actors has it any more, that of references does."""
    assert repaired(plain, tmp_path, lambda _, content: lose_actor(plain, content, ACTOR)).whole


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


@pytest.mark.parametrize("bit", range(5))
def test_a_name_is_not_believed_under_another_number(plain, tmp_path, bit):
    """Where a bit of its key is hit, a row of actors would give its name to another one."""
    number = REF.pack(ref_of(plain, ACTOR))
    row = checked_row(b"a" + ACTOR.encode(), number)

    def moves(_: random.Random, content: bytearray) -> None:
        assert number + row in content
        content[:] = content.replace(number + row, number[:3] + bytes([number[3] ^ 1 << bit]) + row)

    assert repaired(plain, tmp_path, moves).whole


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


def ref_of(original: Original, session: str) -> int:
    """Return the reference of a session."""
    return next(ref for ref, name in original.names.items() if name == session)


def test_a_sound_store_needs_no_keyring(encrypted, tmp_path):
    """Sealed facts, halves of merges too, come over as they are by whoever can't read them."""
    report = repair(encrypted.place, tmp_path / "made")
    assert report.whole and report.root == encrypted.head.root.hex()
    with EventStore.open(tmp_path / "made", keyring=encrypted.keyring) as store:
        assert told(verify(store, deep=True)) == ""


def test_old_pages_are_used_only_by_who_can_read_what_came_later(encrypted, tmp_path):
    """What stands there may have been redacted since, by a fact that is sealed."""

    def loses_the_newest(_: random.Random, content: bytearray) -> None:
        numbers = pages_of(encrypted.place / LOG / "data.mdb", encrypted.frames[-1])
        content += content[numbers[0] * PAGE : (numbers[0] + 1) * PAGE]
        for number in numbers:
            content[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)

    damaged(encrypted, tmp_path / "h", loses_the_newest, 0)
    with pytest.raises(StoreUnavailable, match="keyring"):
        repair(tmp_path / "h", tmp_path / "locked")
    assert repair(tmp_path / "h", tmp_path / "made", keyring=encrypted.keyring).whole


@pytest.mark.parametrize("size", [1, 7, 512, PAGE])
def test_bytes_that_are_lost_or_come_in_between_move_no_frame_out_of_reach(plain, tmp_path, size):
    """Behind them no page is at its place: frames are found wherever they begin."""

    def loses(_: random.Random, content: bytearray) -> None:
        del content[2 * PAGE : 2 * PAGE + size]

    def gains(_: random.Random, content: bytearray) -> None:
        content[2 * PAGE : 2 * PAGE] = b"x" * size

    for damage in (loses, gains):
        assert repaired(plain, tmp_path / damage.__name__, damage).kept > plain.head.size // 2


def test_pages_that_stand_where_the_first_two_should_are_looked_at(plain, tmp_path):
    """What is in them is as whole as it was at its own place."""
    leaf = plain.content.index(plain.frames[0].raw) // PAGE * PAGE

    def trades(_: random.Random, content: bytearray) -> None:
        content[:PAGE], content[leaf : leaf + PAGE] = content[leaf : leaf + PAGE], content[:PAGE]

    assert repaired(plain, tmp_path, trades).kept == plain.head.size


def test_repair_brings_no_payload_of_an_erased_session_back(tmp_path):
    """Nobody could open it, and what folds the session would meet it: it is taken away again."""
    place, keyring = tmp_path / "history", Keyring.file(tmp_path / "keyring")
    with EventStore.open(place, keyring=keyring) as store:
        store.create("private")
        store.append("private", {"content": SECRET})
        store.create("other")
        for number in range(40):  # so that the end of the erasure is on another page
            store.append("other", {"role": "user", "content": f"line {number}"})
        old = (place / LOG / "data.mdb").read_bytes()
        store.erase("private", reason="asked for")
        frames = [each for each in store.log.read_all(0) if each.session == "private"]
    file = place / LOG / "data.mdb"
    content = bytearray(file.read_bytes())
    for number in pages_of(file, frames[1]):
        content[number * PAGE : (number + 1) * PAGE] = bytes(PAGE)
    file.write_bytes(content + old)
    report = repair(place, tmp_path / "made", keyring=keyring)
    assert report.kept == report.size and not report.positions
    with EventStore.open(tmp_path / "made", keyring=keyring) as store:
        assert [each.erased for each in store.events("private")] == [True, True, False, False]
        assert told(verify(store, deep=True)) == ""


def pages_of(file: Path, frame: Frame) -> list[int]:
    """Return the leaf pages, free ones too, that have a node for a frame."""
    key = POSITION.pack(frame.last_position)
    with PageFile(file) as pages:
        leaves = [n for n in range(pages.pages) if page_kind(pages.page(n)) == LEAF]
        return [n for n in leaves if any(key == node[1] for node in pages.nodes(pages.page(n)))]


def test_a_lost_summary_that_was_redacted_is_a_placeholder(plain, tmp_path):
    """What stands for it is no summary, and loses its payload as well."""
    (version,) = [
        version
        for (session, version), event in plain.events.items()
        if session == "bulk" and isinstance(event, HistorySummarized)
    ]
    report = repaired(plain, tmp_path, hit(plain, "bulk", version))
    assert report.sessions == [LostPart("bulk", version, version)]


def test_repair_brings_no_values_of_an_erased_session_back(tmp_path):
    """Where a merge took them along, and an old page has it as it was, they go once more."""
    place, keyring = tmp_path / "history", Keyring.file(tmp_path / "keyring")
    with EventStore.open(place, keyring=keyring) as store:
        store.create("target")
        store.branch("target", "source")
        store.set_context("source", "code", SECRET)
        merged = store.merge("source", into="target", strategy="adopt")
        store.append("target", [{"role": "user", "content": f"{each}" * 900} for each in range(9)])
        old = (place / LOG / "data.mdb").read_bytes()
        store.erase("source", reason="asked for", cascade=True)
        frame = store.log.read_all(merged.position)[0]
    file = place / LOG / "data.mdb"
    content = bytearray(file.read_bytes())
    page = content.index(frame.raw) // PAGE * PAGE
    file.write_bytes(content[:page] + bytes(PAGE) + content[page + PAGE :] + old)
    repair(place, tmp_path / "made", keyring=keyring)
    with EventStore.open(tmp_path / "made", keyring=keyring) as store:
        assert merged.version in {each.version for each in store.events("target") if each.erased}
        assert SECRET not in repr([each.structure for each in store.events("target")])
        assert told(verify(store, deep=True)) == ""


# -- all else --------------------------------------------------------------------------------


def test_a_sound_store_is_repaired_to_itself(plain, tmp_path):
    """With nothing lost the new store has the same facts, the same root, and another origin."""
    report = repair(plain.place, tmp_path / "made")
    assert report.whole and report.root == plain.head.root.hex()
    assert (report.size, report.kept, report.positions) == (plain.head.size, plain.head.size, [])
    with EventStore.open(tmp_path / "made") as store:
        assert store.head() == plain.head
        line = {"role": "user", "content": "line 3 " * 30}
        assert store.append("bulk", [line] * 9, key="key 3").duplicate
        store.append("bulk", line)  # its first fact: what it was made of
        assert told(verify(store, deep=True)) == ""


def test_without_its_description_a_store_is_repaired(plain, tmp_path):
    """The log knows its own store; the description beside it is made anew."""
    damaged(plain, tmp_path / "h", lambda *_: None, 0)
    for content in (None, b"", b"{}"):
        marker = tmp_path / "h" / "eventstore.json"
        marker.unlink() if content is None else marker.write_bytes(content)
        place = tmp_path / f"made {content}"
        assert repair(tmp_path / "h", place).whole
        with EventStore.open(place) as store, EventStore.open(plain.place, read_only=True) as was:
            assert store.id == was.id
    marker.write_text('{"format": 99, "store": "x"}')
    with pytest.raises(FormatTooNew):
        repair(tmp_path / "h", tmp_path / "newer")


def test_nothing_is_overwritten_and_nobody_disturbed(plain, tmp_path):
    """A destination that exists, a source that is open or that is none: each is one clear error."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    with pytest.raises(StoreUnavailable, match="overwrites nothing"):
        repair(plain.place, tmp_path / "there")
    with pytest.raises(StoreUnavailable, match="can't be read"):
        repair(tmp_path / "there", tmp_path / "made")
    with EventStore.open(plain.place), pytest.raises(StoreLocked, match="repair it then"):
        repair(plain.place, tmp_path / "made")
    assert [each.name for each in tmp_path.iterdir()] == ["there"]


def test_rubbish_gives_an_empty_store_or_an_error(plain, tmp_path):
    """A file without anything of ours in it never ends in anything but a clear answer."""
    for number, content in enumerate([b"", b"x", random.Random(2).randbytes(20 * PAGE)]):
        place = tmp_path / str(number)
        (place / LOG).mkdir(parents=True)
        shutil.copy(plain.place / "eventstore.json", place)
        (place / LOG / "data.mdb").write_bytes(content)
        report = repair(place, tmp_path / f"made {number}")
        assert (report.size, report.kept, report.events) == (0, 0, 0)
        EventStore.open(tmp_path / f"made {number}").close()


def test_frames_are_known_by_their_checksums(plain):
    """The model's own ground: each frame of the original stands whole in its file."""
    for frame in plain.frames:
        assert stands_behind_key(frame, plain.content) or stands_alone(frame, plain.content)


def test_the_model_has_frames_that_no_commit_made_facts(plain, encrypted):
    """Its other ground: some are left at positions that others took since, and behind the end."""
    for original in (plain, encrypted):
        file = original.place / LOG / "data.mdb"
        with EventStore.open(original.place, read_only=True, keyring=original.keyring) as store:
            dead = [each.position for each in left_over(file, store.log.codec, original.frames)]
        assert sum(position < original.head.size for position in dead) > 10
        assert sum(position >= original.head.size for position in dead) > 10
