"""Damage: whatever byte of the log is altered, reads never lie and verify names it.

Run as a program this file is the child that opens damaged images: one that dies takes only its
image along, and a new one goes on with the next.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import lmdb
import pytest

from eventstore import EventStore, EventStoreError, FormatTooNew, StoreUnavailable
from eventstore.audit.structure import child_environment, problems
from eventstore.audit.verify import verify, verify_directory
from eventstore.audit.walker import walked
from eventstore.log.format import FORMAT_KEY, FRAMES, META, REF
from eventstore.log.rows import checked_row
from projections.session import SessionState

PAGE = 4096
COMMIT_AT = 144
"""Where a meta page keeps the number of its commit: a flip there can hide the newest commit."""

FAST, LONG = 40, 2_000
"""Altered images in the two variants of the test."""

CHILDREN = 2

Image = list[int]
"""[offset, mask]: the byte that is altered and how; mask 0 zeroes a page from there on."""


def build(path: Path) -> None:
    """Make a store with every table filled and every shape of frame."""
    noise = random.Random(5)
    ticks = count(1_700_000_000_000_000_000, 1_000_000)
    with EventStore.open(path, clock=lambda: next(ticks), actor="user:0") as store:
        for number in range(12):
            store.create(f"s{number}", user=f"user:{number}", actor=f"user:{number}")
        for turn in range(140):  # a stream whose index grows out of its page
            store.append("s0", {"role": "user", "content": f"question {turn}"})
        for number in range(1, 12):
            lines = [{"role": "user", "content": f"{number}: line {i} of many"} for i in range(25)]
            store.append(f"s{number}", lines, key=f"key-{number}", correlation_id="trace")
        blob = noise.randbytes(9_000).hex()
        store.append("s1", {"role": "tool", "content": blob}, occurred_at=1_600_000_000_000_000_000)
        store.branch("s1", "b1", at=12, name="again")
        store.append("b1", [{"role": "assistant", "content": "other"}, {"content": "and more"}])
        store.update_metadata("b1", {"topic": "python"})
        store.merge("b1", into="s1", key="merge")
        store.prune("s2", keep_last=5)
        store.summarize("s3", "what was said", upto=10)
        store.rewind("s4", 7)
        store.set_context("s5", "step", {"n": 1})


def walk_all(store: EventStore) -> Any:
    """Return all facts in order."""
    return [shown(each) for each in store.all()]


def shown(recorded: Any) -> Any:
    """Return an event with its place as comparable text."""
    place = recorded.position, recorded.session, recorded.version, recorded.recorded_at
    names = recorded.actor, recorded.correlation_id, recorded.key, recorded.occurred_at
    return repr((place, names, recorded.role, recorded.tokens, recorded.event))


def state(store: EventStore, session: str) -> Any:
    """Return a session's newest state as comparable text."""
    found = SessionState.of(store, session)
    return repr((found.header, list(found.messages), found.messages[-3:]))


def reads(sessions: list[str], size: int) -> Iterator[tuple[str, Callable[[EventStore], Any]]]:
    """Iterate over every way to read, with its name."""
    yield "head", lambda store: repr(store.head())
    yield "all", walk_all
    yield "sessions", lambda store: dict.fromkeys(store.sessions(), True)
    for position in range(0, size, 23):
        yield f"event {position}", lambda store, p=position: shown(store.event(p))
    for session in sessions:
        yield f"events {session}", lambda store, s=session: [shown(e) for e in store.events(s)]
        yield (
            f"back {session}",
            lambda store, s=session: [shown(e) for e in store.events(s, reverse=True)],
        )
        yield f"state {session}", lambda store, s=session: state(store, s)
    for key in ["merge", *(f"key-{number}" for number in range(1, 12))]:
        yield f"key {key}", lambda store, k=key: receipt(store, k)


def receipt(store: EventStore, key: str) -> dict[str, str]:
    """Return the receipt behind an idempotency key, if it is known."""
    found = store.log.receipt_of(key)
    return {key: repr(found)} if found else {}


# -- the child ---------------------------------------------------------------------------


def child() -> None:
    """Check each image that a line of standard input names; print a line for each stage."""
    work = Path(sys.argv[1])
    original = json.loads((work / "original.json").read_text())
    with tempfile.TemporaryDirectory(dir=work) as place:
        for line in sys.stdin:
            number, *image = json.loads(line)
            store = Path(place) / str(number)
            write_image(work / "store", store, image)
            say(number, "structure", problems(store / "log", walked(str(store / "log"))))
            say(number, "verify", verdict(store))
            say(number, "reads", compared(store, original))
            shutil.rmtree(store)


def say(number: int, stage: str, told: list[str]) -> None:
    """Print one stage of an image."""
    print(json.dumps([number, stage, told]), flush=True)


def write_image(source: Path, place: Path, image: Image) -> None:
    """Copy the log of a store with one byte altered."""
    (place / "log").mkdir(parents=True)
    shutil.copy(source / "eventstore.json", place)
    content = bytearray((source / "log" / "data.mdb").read_bytes())
    offset, mask = image
    if mask:
        content[offset] ^= mask
    else:
        content[offset : offset + PAGE] = bytes(PAGE)
    (place / "log" / "data.mdb").write_bytes(content)


def verdict(place: Path) -> list[str]:
    """Return what verify finds in a store that is opened in this process."""
    try:
        with EventStore.open(place, read_only=True) as store:
            return [str(each) for each in verify(store).findings]
    except EventStoreError as error:
        return [f"{type(error).__name__}: {error}"]


def compared(place: Path, original: dict[str, Any]) -> list[str]:
    """Return what was not as written, each as "name: how"; "!" marks lies and foreign errors."""
    try:
        with EventStore.open(place, read_only=True) as store:
            told = [
                f"{difference(original[name], read, store)} {name}"
                for name, read in reads(original["names"], original["size"])
            ]
            return [each for each in told if not each.startswith("equal")]
    except EventStoreError as error:
        return [f"{type(error).__name__} open"]


def difference(written: Any, read: Callable[[EventStore], Any], store: EventStore) -> str:
    """Return how what is read differs from what was written."""
    try:
        found = read(store)
    except EventStoreError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not of our tree
        return f"! {error!r}"
    if found == written:
        return "equal"
    if isinstance(written, dict) and found.items() <= written.items():
        return "incomplete"  # an index of names lost a row: verify must say so
    return "! other facts"


# -- the parent --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with a store and all that it gives to a reader."""
    place = tmp_path_factory.mktemp("damage")
    build(place / "store")
    with EventStore.open(place / "store", read_only=True) as store:
        names, size = list(store.sessions()), store.head().size
        original = {name: read(store) for name, read in reads(names, size)}
    (place / "original.json").write_text(json.dumps({**original, "names": names, "size": size}))
    return place


@pytest.fixture
def copy(work: Path, tmp_path: Path) -> Path:
    """Give a copy of the store to damage."""
    return Path(shutil.copytree(work / "store", tmp_path / "copy"))


def told_by_children(work: Path, images: list[Image]) -> list[dict[str, list[str]]]:
    """Return what the children tell about each image; `died` where one did not survive it."""
    told: list[dict[str, list[str]]] = [{} for _ in images]
    todo = [[number, *image] for number, image in enumerate(images)]
    while todo:
        ran = subprocess.run(
            [sys.executable, __file__, str(work)],
            input="\n".join(map(json.dumps, todo)),
            capture_output=True,
            check=False,
            text=True,
            timeout=600,
            env=child_environment(),
        )
        for number, stage, what in map(json.loads, ran.stdout.splitlines()):
            told[number][stage] = what
        todo = [each for each in todo if "reads" not in told[each[0]]]
        if todo:
            assert ran.returncode < 0, ran.stderr
            told[todo.pop(0)[0]]["died"] = [str(ran.returncode)]
    return told


def complaint(image: Image, told: dict[str, list[str]]) -> str | None:
    """Return what the promise is broken by, None where it is kept."""
    named = told["structure"] + told.get("verify", [])
    if hides_a_commit(image):
        # The store is whole, as it was one commit ago. One bit makes it look as if that were
        # the last one: that only a head kept outside can tell.
        blind = image[0] % PAGE == COMMIT_AT and image[1] == 2
        return None if named or blind else "verify does not see that a commit is hidden"
    if "died" in told:
        return None if told["structure"] else "a reader died, and the structure is called sound"
    lies = [each for each in told["reads"] if each.startswith("!")]
    if lies:
        return lies[0]
    silent = told["reads"] and not named
    return f"verify is content, but reads say {told['reads'][0]}" if silent else None


def hides_a_commit(image: Image) -> bool:
    """Return True if a bit of a commit's number in a meta page is altered."""
    offset, mask = image
    return bool(mask) and offset < 2 * PAGE and 0 <= offset % PAGE - COMMIT_AT < 8


def check_images(work: Path, count: int, seed: int) -> None:
    """Zero some pages and alter bits: half anywhere, half where pages keep their structure."""
    size, chance = (work / "store" / "log" / "data.mdb").stat().st_size, random.Random(seed)
    images = [[page * PAGE, 0] for page in chance.sample(range(size // PAGE), 10)]
    images += [[chance.randrange(size), 1 << chance.randrange(8)] for _ in range(count // 2)]
    for _ in range(count - len(images)):
        place = chance.randrange(size // PAGE) * PAGE + chance.randrange(160)
        images.append([place, 1 << chance.randrange(8)])
    with ThreadPoolExecutor(CHILDREN) as pool:
        parts = [images[each::CHILDREN] for each in range(CHILDREN)]
        told = list(pool.map(lambda part: told_by_children(work, part), parts))
    found = [
        (image, broken, each)
        for part, tales in zip(parts, told, strict=True)
        for image, each in zip(part, tales, strict=True)
        if (broken := complaint(image, each))
    ]
    assert not found, found[:5]
    named = sum(bool(each["structure"] + each.get("verify", [])) for part in told for each in part)
    print(f"{count} images, {named} of them named by verify")
    assert named > count // 4


def test_no_flipped_bit_is_returned_as_data(work: Path):
    """Every read gives what was written, or raises an error of the tree and verify says why."""
    check_images(work, FAST, seed=20_261)


@pytest.mark.long
def test_no_flipped_bit_of_many_is_returned_as_data(work: Path):
    """The same for many more bits."""
    check_images(work, LONG, seed=20_262)


# -- larger damage, through the door that a command uses -------------------------------------


def findings(place: Path, *, deep: bool = False) -> str:
    """Return what is found in a directory, as text."""
    report = verify_directory(place, deep=deep)
    assert report.sound == (not report.findings)
    return "\n".join(map(str, report.findings))


def data_file(place: Path) -> Path:
    """Return the file of a store's log."""
    return place / "log" / "data.mdb"


def test_a_sound_store_is_called_sound(copy: Path):
    """Nothing is found where nothing is damaged, not even in the snapshots."""
    report = verify_directory(copy, deep=True)
    assert report.sound and report.size == report.checked["events"] == 438
    assert report.checked["tiles"] == (438 >> 4) + (438 >> 8) and report.checked["keys"] == 12


@pytest.mark.parametrize("left", [0, 100, 3 * PAGE, -1])
def test_a_cut_file_is_named(copy: Path, left: int):
    """A file that lost its end is damage of the file, whatever is left of it."""
    size = data_file(copy).stat().st_size
    os.truncate(data_file(copy), left if left >= 0 else size + left)
    assert "data.mdb" in findings(copy)


def test_bytes_behind_the_end_change_nothing(copy: Path):
    """A file with something appended holds the same store."""
    with data_file(copy).open("ab") as file:
        file.write(b"\xff" * 3 * PAGE)
    assert findings(copy) == ""


def test_a_zeroed_page_of_the_tree_is_named(copy: Path):
    """Where reading the damage could kill a process, it is a child's, and the caller lives on."""
    content = bytearray(data_file(copy).read_bytes())
    root = frames_root(copy)
    content[root * PAGE : root * PAGE + PAGE] = bytes(PAGE)
    data_file(copy).write_bytes(content)
    assert f"log/data.mdb: main/frames DB: page {root}" in findings(copy)


def frames_root(place: Path) -> int:
    """Return the page that the tree of frames begins with."""
    with lmdb.open(str(place / "log"), max_dbs=16, readonly=True) as env, env.begin() as txn:
        record = txn.get(FRAMES)  # LMDB's own: 40 bytes of counters, then the page
    return int.from_bytes(record[40:48], sys.byteorder)


def test_swapped_frames_are_named(copy: Path):
    """Two frames of the same length that change places are both named."""
    with lmdb.open(str(copy / "log"), max_dbs=16) as env:
        frames = env.open_db(FRAMES)
        with env.begin(write=True, db=frames) as txn:
            length = Counter(len(value) for _, value in txn.cursor()).most_common(1)[0][0]
            rows = [(key, value) for key, value in txn.cursor() if len(value) == length]
            (first, one), (second, two) = rows[0], rows[-1]
            assert one != two
            txn.put(first, two)
            txn.put(second, one)
    told = findings(copy)
    for key in (first, second):
        assert f"position {int.from_bytes(key, 'big')}: frame head" in told


def test_a_missing_file_is_named(copy: Path):
    """A store without its log is damage, not an empty store."""
    data_file(copy).unlink()
    assert "log/data.mdb is missing" in findings(copy)


@pytest.mark.parametrize("content", [b"", b"shopping list\n" * 1_000, bytes(8 * PAGE)])
def test_another_file_in_its_place_is_named(copy: Path, content: bytes):
    """A file that is no LMDB environment is named, and no reader dies of it."""
    data_file(copy).write_bytes(content)
    assert "data.mdb" in findings(copy)
    with pytest.raises(EventStoreError):
        EventStore.open(copy, read_only=True)


def test_the_file_of_another_store_is_named(copy: Path, tmp_path: Path):
    """A log that was put into another store's directory is told by the store's id."""
    build(tmp_path / "other")
    shutil.copy(data_file(tmp_path / "other"), data_file(copy))
    assert "the log is of store" in findings(copy)


@pytest.mark.parametrize("marker", ["", "{}", "[]", '{"format": 1}', "not json", "\x00"])
def test_a_wrong_marker_is_no_store(copy: Path, marker: str):
    """Where the directory doesn't say what it is, nothing can be verified."""
    (copy / "eventstore.json").write_text(marker)
    with pytest.raises(StoreUnavailable):
        verify_directory(copy)


def test_a_directory_that_is_no_store_can_not_be_verified(tmp_path: Path):
    """An empty directory, a missing one and a file are no stores."""
    (tmp_path / "file").write_text("x")
    for place in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(StoreUnavailable):
            verify_directory(place)


def test_a_newer_store_is_refused_before_it_is_opened(copy: Path):
    """A marker of a newer format stops the verification: nothing is said about what follows."""
    marker = json.loads((copy / "eventstore.json").read_text())
    (copy / "eventstore.json").write_text(json.dumps({**marker, "format": 2}))
    with pytest.raises(FormatTooNew):
        verify_directory(copy)


def test_a_newer_format_in_the_tables_is_named(copy: Path):
    """A log that says a newer format than its directory does is a finding."""
    with lmdb.open(str(copy / "log"), max_dbs=16) as env:
        meta = env.open_db(META)
        with env.begin(write=True, db=meta) as txn:
            txn.put(FORMAT_KEY, checked_row(REF.pack(2)))
    assert "format 2" in findings(copy)
    with pytest.raises(FormatTooNew):
        EventStore.open(copy, read_only=True)


if __name__ == "__main__":
    child()
