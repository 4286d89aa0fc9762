"""Repair and commits that never were: what they left on free pages is no fact of the new store."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from facts import append_all, drafted, said, told
from refused import NEVER, left_over, lines, no_more_room, noise, refuse

from eventstore import EventStore, Keyring, StoreFull
from eventstore.audit.pages import FILE, LEAF, PageFile, page_kind, page_number
from eventstore.audit.verify import verify
from eventstore.care.mending import Unproven
from eventstore.care.repair import repair
from eventstore.events import BranchCreated, MessageAppended
from eventstore.ids import SYSTEM
from eventstore.log.base import ANY, Append
from eventstore.log.format import FRAME_HEAD_BYTES, FRAMES, HEAD_KEY, POSITION, REF, TILES
from eventstore.log.frame import Frame
from eventstore.log.rows import ref_row
from eventstore.place.directory import LOG

PAGE = 4096
BEFORE = 6
"""How many facts there are before anything is refused."""


def begun(place: Path, keyring: Keyring | None = None, before: int = BEFORE) -> EventStore:
    """Make a store with some facts of one session; it is open."""
    store = EventStore.open(place, train=False, compression="none", keyring=keyring)
    store.create("a")
    for number in range(1, before):
        store.append("a", {"role": "user", "content": f"fact {number}"})
    return store


def go_on(store: EventStore, count: int, width: int = 0) -> list[Frame]:
    """Append what is acknowledged, one by one; returns all frames of the store."""
    for number in range(count):
        text = f"truth {number} {noise(width)}"
        store.append("a", {"role": "user", "content": text})
    return frames_of(store)


def frames_of(store: EventStore) -> list[Frame]:
    """Return all frames of a store."""
    found: list[Frame] = []
    while not found or found[-1].last_position + 1 < store.log.size():
        found += store.log.read_all(found[-1].last_position + 1 if found else 0)
    return found


def refused(store: EventStore, calls: list) -> list[bytes]:
    """Have a group of calls refused; return the frames that this left in the file, behind keys.

    Put at the end of the file they stay there, whichever pages later commits take.
    """
    known = frames_of(store)
    refuse(store, calls, max(len(calls) // 8, 1))
    found = left_over(store.path / LOG / FILE, store.log.codec, known)
    return [POSITION.pack(each.last_position) + each.raw for each in sorted(found, key=_position)]


def _position(frame: Frame) -> int:
    return frame.position


def plant(place: Path, rows: Iterable[bytes]) -> None:
    """Put frames behind their keys on free pages at the end."""
    file = place / LOG / FILE
    pages = (row + bytes(-len(row) % PAGE) for row in rows)
    file.write_bytes(file.read_bytes() + b"".join(pages))


def lose(place: Path, frames: Iterable[Frame], page: bytes = bytes(FRAME_HEAD_BYTES)) -> None:
    """Damage the heads of all copies of frames."""
    file = place / LOG / FILE
    content = file.read_bytes()
    for frame in frames:
        assert frame.raw in content
        content = content.replace(frame.raw[:FRAME_HEAD_BYTES], page)
    file.write_bytes(content)


def move(place: Path, frames: Iterable[Frame]) -> None:
    """Leave one copy of frames that no tree leads to."""
    rows = [POSITION.pack(each.last_position) + each.raw for each in frames]
    lose(place, frames)
    plant(place, rows)


def texts(place: Path, keyring: Keyring | None = None) -> list[str]:
    """Return what the messages of a session say, whose store must be sound."""
    with EventStore.open(place, keyring=keyring) as store:
        assert told(verify(store, deep=True)) == ""
        facts = (each.event for each in store.events("a"))
        return [str(f.message.fields["content"]) for f in facts if isinstance(f, MessageAppended)]


def invented(place: Path, keyring: Keyring | None = None) -> list[int]:
    """Return the positions of what never was."""
    said = enumerate(texts(place, keyring), 1)
    return [number for number, text in said if text.startswith(NEVER)]


# -- positions that others took ----------------------------------------------------------------

STRETCHES = [
    range(1),
    range(20, 21),
    range(1, 30),
    range(30),
    range(3, 9),
    range(17),
    range(29, 30),
]


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("lost", STRETCHES, ids=str)
def test_a_refused_group_takes_no_place_of_what_came_later(tmp_path, lost, sealed):
    """Whichever facts lose all their copies, they are lost: what was refused is not put there.

    A kept root or the frontier is over each of these places, and with the refused ones none fits.
    """
    keyring = Keyring.file(tmp_path / "keyring") if sealed else None
    with begun(tmp_path / "h", keyring) as store:
        dead = refused(store, lines("a", 100, 900))
        size = store.head().size
        frames = go_on(store, 30)
    assert len(dead) > 30
    gone = [frames[-30 + index] for index in lost]
    lose(tmp_path / "h", gone)
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made", keyring=keyring)
    assert report.positions == [(size + lost.start, size + lost.stop)]
    assert not report.whole and not report.unproven and report.kept == size + 30 - len(lost)
    assert invented(tmp_path / "made", keyring) == []


@pytest.mark.parametrize("refusals", [1, 3])
def test_the_fact_is_told_from_what_was_refused_in_its_place(tmp_path, refusals):
    """Where copies of both are left, that one is taken whose leaf the tree has: all is proven."""
    with begun(tmp_path / "h") as store:
        dead = [row for _ in range(refusals) for row in refused(store, lines("a", 60, 900))]
        frames = go_on(store, 30)
        head = store.head()
    move(tmp_path / "h", frames[BEFORE:])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.whole and report.root == head.root.hex()
    assert invented(tmp_path / "made") == []


def test_an_append_that_was_refused_where_the_log_ended_is_told_by_the_tree(tmp_path):
    """No time tells it: it is younger than what came before its place, older than what came after.

    It is next in its session, too, and had the key of the one that came then.
    """
    with begun(tmp_path / "h") as store:
        go_on(store, 20)
        large = lines("a", 1, 200_000)
        dead = refused(store, [*lines("a", 1, 300, key="the same"), *large])
        store.append("a", {"role": "user", "content": "truth"}, key="the same")
        frames = go_on(store, 20)
    place = frames[26].position
    assert [int.from_bytes(row[:8], "big") for row in dead] == [place]
    lose(tmp_path / "h", [frames[place]])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.positions == [(place, place + 1)] and not report.unproven
    assert invented(tmp_path / "made") == []


SEEDS = [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 150))]


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_that_was_refused_comes_back_unnamed(tmp_path, seed):
    """Groups are refused again and again, facts lose their copies or are left on free pages alone.

    What the tree leads to is kept, what is not named as unproven was acknowledged, and a place is
    lost only where no copy of its fact is left, or where a fact near it has none.
    """
    source = random.Random(seed)
    dead, names = [], ["a", "b"]
    with begun(tmp_path / "h") as store:
        store.create("b")
        for _ in range(source.randint(1, 5)):
            calls = [each for n in names for each in lines(n, source.randint(1, 30), 300)]
            dead += refused(store, [*source.sample(calls, len(calls)), *lines("a", 1, 300_000)])
            for number in range(source.randint(1, 25)):
                line = {"role": "user", "content": f"truth {number}"}
                store.append(source.choice(names), [line] * source.choice((1, 1, 1, 3)))
        frames, head = frames_of(store), store.head()
        was = {(each.session, each.version): repr(each.event) for each in store.all()}
    start = source.randrange(len(frames))
    hit = frames[start : start + source.randint(1, 30)]
    lost = [each for each in hit if source.random() < source.choice((0.1, 0.5, 1))]
    move(tmp_path / "h", [each for each in hit if each not in lost])
    lose(tmp_path / "h", lost)
    plant(tmp_path / "h", source.sample(dead, len(dead)))
    report = repair(tmp_path / "h", tmp_path / "made")
    named = {each.first + n for each in report.unproven for n in range(each.last - each.first + 1)}
    olds = {each.was + n for each in report.unproven for n in range(each.last - each.first + 1)}
    gone = {p for start, stop in report.positions for p in range(start, stop)}
    with EventStore.open(tmp_path / "made") as store:
        assert told(verify(store, deep=True)) == ""
        for each in store.all(limit=report.size):
            text = repr(each.event)
            fact = was.get((each.session, each.version)) == text or "'lost': True" in text
            assert each.position in named or (fact and NEVER not in text)
    places = {p for each in hit for p in range(each.position, each.last_position + 1)}
    without = {p for each in lost for p in range(each.position, each.last_position + 1)}
    assert report.events == head.size == report.kept + len(gone)
    assert gone <= places and without <= gone | olds <= places
    assert report.whole is (not lost) is (report.root == head.root.hex())


# -- where the tree can't tell -------------------------------------------------------------------


def without_tiles(place: Path) -> None:
    """Damage each kept root of the lowest level, so that none says anything."""
    file = place / LOG / FILE
    content = bytearray(file.read_bytes())
    with PageFile(file) as pages:
        tiles = pages.tables(pages.metas()[0])[TILES]
        for _, root in pages.rows(tiles):
            while root in content:
                content[content.index(root)] ^= 1
    file.write_bytes(content)


def test_facts_that_nothing_proves_are_kept_and_named(tmp_path):
    """Where facts around them are lost as well, whole copies are taken, and said to be unproven."""
    with begun(tmp_path / "h") as store:
        frames = go_on(store, 60)
    move(tmp_path / "h", frames[18:21])
    lose(tmp_path / "h", frames[21:23])
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.unproven == [Unproven(18, 20, 18)] and report.positions == [(21, 23)]
    assert report.kept == len(frames) - 2 and not report.whole
    said = "repaired: 64 of 66 events were whole, 3 of them proven by nothing"
    with EventStore.open(tmp_path / "made") as store:
        store.append("a", {"role": "user", "content": "more"})
        assert said in repr([each.event for each in store.events(SYSTEM)])


def test_what_was_refused_is_named_where_nothing_tells_it_from_a_fact(tmp_path):
    """The facts of its place and of the next one are lost: it might have been the first of them."""
    with begun(tmp_path / "h") as store:
        go_on(store, 20)
        dead = refused(store, [*lines("a", 1, 300), *lines("a", 1, 200_000)])
        frames = go_on(store, 20)
    lose(tmp_path / "h", frames[26:28])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.unproven == [Unproven(26, 26, 26)] and report.positions == [(27, 28)]
    assert not report.whole and invented(tmp_path / "made") == [26]


def test_what_was_refused_does_not_begin_an_append_that_others_go_on_with(tmp_path):
    """The next frame goes on with what stood there, at its own time: what was refused is older."""
    with begun(tmp_path / "h") as store:
        store.create("b")
        go_on(store, 20)
        dead = refused(store, [*lines("a", 1, 300), *lines("a", 1, 200_000)])
        parts = {name: [said(f"truth of {name}")] for name in "ab"}
        store.log.commit([append_all(parts, store.log.codec)], store.engine.now())
        frames = go_on(store, 20)
    first, second = frames[27:29]
    assert second.goes_on(first)
    lose(tmp_path / "h", [first, frames[30]])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.unproven == [] and report.positions == [(27, 28), (30, 31)]
    assert invented(tmp_path / "made") == []


@pytest.mark.parametrize("other", [None, 50])
def test_a_damaged_root_refutes_nothing(tmp_path, other):
    """A copy that no kept root fits is taken where these are damaged, and named as unproven.

    Where nothing else is lost the root of all tells that it is the fact.
    """
    with begun(tmp_path / "h") as store:
        frames = go_on(store, 60)
        head = store.head()
    move(tmp_path / "h", frames[20:21])
    without_tiles(tmp_path / "h")
    if other:
        lose(tmp_path / "h", frames[other : other + 1])
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.unproven == ([Unproven(20, 20, 20)] if other else [])
    assert (report.root == head.root.hex()) is report.whole is (other is None)


def test_appends_of_many_facts_are_held_to_all_roots_over_them(tmp_path):
    """A frame that goes over many groups of leaves is proven as a whole, or is none of the log."""
    many = [{"role": "user", "content": f"{NEVER} {number}"} for number in range(17)]
    with begun(tmp_path / "h") as store:
        dead = refused(store, [("append", ("a", many[:17]), {})] * 60)
        for number in range(6):
            store.append("a", [{"role": "user", "content": f"truth {number}"}] * 35)
        frames = frames_of(store)
    assert len(dead) > 1
    for lost, name in ((frames[BEFORE : BEFORE + 3], "moved"), (frames[BEFORE + 1 :], "last")):
        shutil.copytree(tmp_path / "h", tmp_path / name)
        move(tmp_path / name, lost)
        plant(tmp_path / name, dead)
        assert repair(tmp_path / name, tmp_path / f"{name} made").whole
    lose(tmp_path / "h", frames[BEFORE : BEFORE + 2])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.positions == [(BEFORE, BEFORE + 70)] and invented(tmp_path / "made") == []


def test_a_redacted_fact_is_proven_by_the_leaf_that_it_kept(tmp_path):
    """Of two copies that hash alike the one that lost its payload is taken."""
    with begun(tmp_path / "h") as store:
        go_on(store, 30)
        before = store.log.read_stream("a", 20, frames_max=1)
        store.redact("a", 20, reason="a password")
        frames = frames_of(store)
    for order in (0, 1):
        place = tmp_path / f"h {order}"
        shutil.copytree(tmp_path / "h", place)
        older = [POSITION.pack(each.last_position) + each.raw for each in before]
        newer = [POSITION.pack(20) + frames[20].raw]
        lose(place, [*frames[20:21], *before])
        plant(place, newer + older if order else older + newer)
        assert repair(place, tmp_path / f"made {order}").whole
        with EventStore.open(tmp_path / f"made {order}") as store:
            assert [each.position for each in store.events("a") if each.erased] == [20]


# -- the end of the log --------------------------------------------------------------------------


def behind(place: Path) -> tuple[int, int]:
    """Make a store whose last commit was refused; returns its size, and how many were refused."""
    with begun(place) as store:
        go_on(store, 20)
        dead = refused(store, lines("a", 40, 900))
        size = store.head().size
    assert len(dead) > 10
    plant(place, dead)
    return size, len(dead)


@pytest.mark.parametrize("lost", ["newest", "older"])
def test_what_was_refused_prolongs_no_log_that_lost_a_meta_page(tmp_path, lost):
    """Only a commit that is all there counts, with its own head: this one was not all written."""
    size, _ = behind(tmp_path / "h")
    lose_meta(tmp_path / "h", newest=lost == "newest")
    report = repair(tmp_path / "h", tmp_path / "made")
    # Of the newest commit all pages are there, but nothing says that it was the newest one.
    assert report.unproven == ([Unproven(size - 1, size - 1, size - 1)] if lost == "newest" else [])
    assert (report.events, report.size_known, report.kept) == (size, False, size)
    assert invented(tmp_path / "made") == []


def lose_meta(place: Path, *, newest: bool) -> None:
    """Zero one of the meta pages."""
    file = place / LOG / FILE
    content = bytearray(file.read_bytes())
    with PageFile(file) as pages:
        newer = pages.meta(1).commit > pages.meta(0).commit
    at = PAGE * (newer == newest)
    content[at : at + PAGE] = bytes(PAGE)
    file.write_bytes(content)


def test_what_was_refused_prolongs_no_log_that_lost_its_head(tmp_path):
    """The newest tree is all there, as many rows as it says it has: behind it there is nothing."""
    size, _ = behind(tmp_path / "h")
    with EventStore.open(tmp_path / "h", read_only=True) as store, store.log.env.begin() as txn:
        row = bytes(txn.get(HEAD_KEY))
    file = tmp_path / "h" / LOG / FILE
    file.write_bytes(file.read_bytes().replace(row, row[:-1] + bytes([row[-1] ^ 1])))
    report = repair(tmp_path / "h", tmp_path / "made")
    assert (report.events, report.size_known, report.kept) == (size, False, size)
    assert report.unproven == [] and invented(tmp_path / "made") == []


def test_without_any_tree_the_newest_of_each_place_is_taken_and_nothing_is_proven(tmp_path):
    """Both meta pages are lost: what was refused is older than what took its place."""
    with begun(tmp_path / "h") as store:
        dead = refused(store, lines("a", 30, 900))
        size = len(go_on(store, 40))
    plant(tmp_path / "h", dead)
    file = tmp_path / "h" / LOG / FILE
    file.write_bytes(bytes(2 * PAGE) + file.read_bytes()[2 * PAGE :])
    report = repair(tmp_path / "h", tmp_path / "made")
    assert (report.events, report.kept, report.unproven) == (size, size, [Unproven(0, size - 1, 0)])
    assert not report.whole and invented(tmp_path / "made") == []


KILLED = """
import signal, sys, time
sys.path.insert(0, sys.argv[2])
from facts import drafted, said
from refused import NEVER, no_more_room, noise
from eventstore import EventStore
from eventstore.log.base import ANY, Append
store = EventStore.open(sys.argv[1], train=False, compression="none")
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
facts = [said(f"{NEVER} {number} {noise(300)}") for number in range(400)]
batch = [Append((drafted("a", [each], store.log.codec),), (ANY,)) for each in facts]
with no_more_room(store.path, 0):
    store.log.commit(batch, time.time_ns())
"""


def test_a_process_that_dies_in_the_midst_of_a_commit_leaves_no_fact(tmp_path):
    """Killed by a signal while it writes the pages of a group, it acknowledged none of it."""
    begun(tmp_path / "h").close()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "h"), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGXFSZ
    file = tmp_path / "h" / LOG / FILE
    with EventStore.open(tmp_path / "h", train=False, compression="none") as store:
        known = frames_of(store)
        assert len(known) == BEFORE
        found = left_over(file, store.log.codec, known)
        dead = [POSITION.pack(each.last_position) + each.raw for each in found]
        frames = go_on(store, 30)
    assert len(dead) > 5
    lose(tmp_path / "h", frames[BEFORE + 1 : BEFORE + 4])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.positions == [(BEFORE + 1, BEFORE + 4)] and invented(tmp_path / "made") == []


# -- pages, names, and what facts say of others ----------------------------------------------------


def leaf_of(place: Path, frame: Frame) -> int:
    """Return the number of the page that the tree of frames leads to for one."""
    with PageFile(place / LOG / FILE) as pages:
        tree = pages.tables(pages.metas()[0])[FRAMES]
        key = POSITION.pack(frame.last_position)
        return next(
            page_number(page)
            for page in pages.leaves(tree)
            if any(node.key == key for node in pages.nodes(page))
        )


@pytest.mark.parametrize("misplaced", [True, False])
def test_a_page_that_should_not_be_where_it_is_makes_no_store_whole(tmp_path, misplaced):
    """Each page says its own number; of one that is older than it should be the root tells."""
    with begun(tmp_path / "h") as store:
        refuse(store, lines("a", 30, 900), 5)
        dead = left_over(tmp_path / "h" / LOG / FILE, store.log.codec, frames_of(store))
        pages = {each.position: page_with(tmp_path / "h", each) for each in dead}
        frames = go_on(store, 30, width=900)
    places = {p: leaf_of(tmp_path / "h", frames[p]) for p in pages}
    wrong = next(p for p in pages if (places[p] != page_number(pages[p])) is misplaced)
    file, at = tmp_path / "h" / LOG / FILE, places[wrong] * PAGE
    content = file.read_bytes()
    file.write_bytes(content[:at] + pages[wrong] + content[at + PAGE :])
    assert not repair(tmp_path / "h", tmp_path / "made").whole
    assert not misplaced or invented(tmp_path / "made") == []


def page_with(place: Path, frame: Frame) -> bytes:
    """Return a leaf page that has a node for a frame that no tree leads to."""
    with PageFile(place / LOG / FILE) as pages:
        leaves = [page for n in range(pages.pages) if page_kind(page := pages.page(n)) == LEAF]
        return next(p for p in leaves if any(node.data == frame.raw for node in pages.nodes(p)))


def test_the_name_of_a_session_that_never_was_is_not_given_to_another(tmp_path):
    """Its first frame and its row are on free pages; the other one's are lost."""
    with begun(tmp_path / "h") as store:
        dead = refused(store, [("create", ("never",), {}), *lines("a", 30, 900)])
        store.create("there")
        for number in range(30):
            store.append("there", {"role": "user", "content": f"line {number}"})
        frames = frames_of(store)
    [first] = [each for each in frames if each.session == "there" and not each.version]
    row = ref_row(b"sthere", REF.pack(first.session_ref))
    lose(tmp_path / "h", [first])
    file = tmp_path / "h" / LOG / FILE
    content = file.read_bytes()
    assert row in content
    file.write_bytes(content.replace(row, bytes(len(row))))
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made")
    with EventStore.open(tmp_path / "made") as store:
        names = set(store.sessions())
    doubted = "never" in names
    assert doubted is ("never" in report.unproven_names)
    assert names - {"a", "never"} == ({f"lost name {first.session_ref}"} if not doubted else set())
    assert not report.whole


# -- what refused facts say of others --------------------------------------------------------------


def refused_alone(store: EventStore, command: Callable[[], object]) -> list[bytes]:
    """Have one command refused until that leaves a frame; return what it left, behind keys."""
    known = frames_of(store)
    for pages in range(-30, 1):
        with no_more_room(store.path, pages), pytest.raises(StoreFull):
            command()
        found = left_over(store.path / LOG / FILE, store.log.codec, known)
        if found:
            return [POSITION.pack(each.last_position) + each.raw for each in found]
    raise AssertionError("no page with a frame was written")


TAKINGS = {
    "redaction": lambda store: store.redact("a", 2, reason=NEVER),
    "erasure": lambda store: store.erase("a", reason=NEVER),
}


@pytest.mark.parametrize("command", TAKINGS.values(), ids=TAKINGS)
def test_what_was_refused_takes_nothing_away(tmp_path, command):
    """It would be next in its session, and all that came in its place is lost.

    But a redaction and the end of its payload are one commit, and the payload is there.
    """
    keyring = Keyring.file(tmp_path / "keyring")
    with begun(tmp_path / "h", keyring, before=20) as store:
        store.create("other")
        size = store.head().size
        dead = refused_alone(store, lambda: command(store))
        for count in (5, 20):
            lines = [{"role": "user", "content": f"meanwhile {n}"} for n in range(count)]
            store.append("other", lines)
        frames = frames_of(store)
    lose(tmp_path / "h", [each for each in frames if each.position == size])
    plant(tmp_path / "h", dead)
    report = repair(tmp_path / "h", tmp_path / "made", keyring=keyring)
    assert report.positions == [(size, size + 5)] and report.kept == report.events - 5
    assert report.unproven == []
    with EventStore.open(tmp_path / "made", keyring=keyring) as store:
        assert not any(each.erased for each in store.all())


def test_a_branch_that_was_refused_makes_no_room_where_facts_are(tmp_path):
    """Behind it its parent went on with a version that it says was there already."""
    with begun(tmp_path / "h") as store:
        store.create("other")
        codec, size = store.log.codec, store.head().size
        facts = [("a", said(f"{NEVER} {noise(900)}"))] * 2 + [("try", BranchCreated("a", 7))]
        facts += [("try", said(noise(9_000)))] * 9
        batch = [Append((drafted(name, [fact], codec),), (ANY,)) for name, fact in facts]
        dead = refused_alone(store, lambda: store.log.commit(batch, time.time_ns()))
        store.append("other", [{"role": "user", "content": f"meanwhile {n}"} for n in range(5)])
        frames = go_on(store, 20)
    lose(tmp_path / "h", [each for each in frames if each.position == size])
    plant(tmp_path / "h", [row for row in dead if b"stry" in row or b"try" in row])
    report = repair(tmp_path / "h", tmp_path / "made")
    assert report.unproven == [] and report.positions == [(size, size + 5)]
    assert report.kept == report.events - 5
