"""A store with everything in it, damage to its file, and a model of what repair makes of that."""

import random
import re
import shutil
from collections.abc import Callable, Container, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from driver import Driver, steps_of, ticking
from facts import told
from msgspec.structs import replace
from refused import lines, refuse

from eventstore import EventStore, Keyring
from eventstore.audit.verify import verify
from eventstore.care.mending import LOST, LOST_TEXT
from eventstore.care.repair import Repaired, repair
from eventstore.events import (
    AnyEvent,
    BranchMerged,
    Custom,
    EraseRequested,
    KeyCreated,
    MessageAppended,
    Redacted,
    SessionCreated,
)
from eventstore.ids import SYSTEM
from eventstore.log.format import POSITION
from eventstore.log.frame import Frame
from eventstore.place.directory import LOG
from projections.session import SessionState

PAGE, PAGE_HEAD_BYTES = 4096, 16
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


def repaired(original: Original, place: Path, damage: Damage) -> Repaired:
    """Damage a store, repair and check it."""
    content = damaged(original, place / "h", damage, 0)
    report = repair(place / "h", place / "made", keyring=original.keyring)
    check(original, content, place / "made", report)
    return report
