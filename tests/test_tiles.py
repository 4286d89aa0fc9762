"""Tiles: the layout is C2SP's, every byte is bound to the signed root, exports add up."""

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import Corruption, EventStore, ProofError, RollbackDetected, StoreUnavailable
from eventstore.audit import verifier
from eventstore.audit.entry import ENTRY_BYTES
from eventstore.audit.evidence import prove_session
from eventstore.audit.heads import Heads
from eventstore.audit.leaves import log_entries
from eventstore.audit.note import Checkpoint, origin_of, sign_note
from eventstore.audit.signer import SigningKey
from eventstore.audit.tiles import export_tiles, tile_path
from eventstore.audit.tree import leaf_hash, root_of
from eventstore.log.memory import MemoryLog
from eventstore.log.rows import tile_key
from eventstore.state.snapshots import MemorySnapshots

ORIGIN = "example.com/support/01890a5d-ac96-774b-bcce-b302099a8057"
KEY = SigningKey(ORIGIN, bytes(range(32)))
KEYS = [KEY.verifier]


@pytest.fixture
def memory():
    """Give a store in memory that has an id, and so can be signed for."""
    with EventStore(MemoryLog(), MemorySnapshots(), store=ORIGIN.rpartition("/")[2]) as store:
        store.create("a")
        store.create("b")
        yield store


def grow(store: EventStore, size: int) -> bytes:
    """Append up to a size, in turn to two sessions, and return the signed head."""
    turn = 0
    while (missing := size - store.head().size) > 0:
        turn += 1
        store.append("ab"[turn % 2], [{"content": "x"}] * min(missing, 37 * turn, 10_000))
    return sign_note(str(Checkpoint(ORIGIN, size, store.head().root)), KEY)


def files(directory: Path) -> dict[str, bytes]:
    """Return the content of every file by its path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def proven(directory: Path) -> bool:
    """Return True if the standalone verifier proves a directory."""
    return verifier.main(["--key", str(KEY.verifier), str(directory)]) == 0


# -- layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "width", "path"),
    [
        (0, 256, "000"),
        (5, 1, "005.p/1"),
        (999, 256, "999"),
        (1_000, 256, "x001/000"),
        (1_234_067, 256, "x001/x234/067"),
        (1_234_067, 255, "x001/x234/067.p/255"),
    ],
)
def test_paths_are_those_of_the_specification(index, width, path):
    """An index stands in groups of three digits, all but the last behind an x."""
    assert tile_path(index, width) == path
    assert verifier.tile_name(index * 256, index * 256 + width) == path


def test_a_tree_of_70_000_is_laid_out_as_the_specification_says(tmp_path):
    """Its example: 273 full tiles and one of 112, one and one of 17, one of 1; all proven."""
    with EventStore.open(tmp_path / "history") as store:
        key = SigningKey.generate(origin_of("example.com", store.id))
        store.create("a")
        for count in (10_000,) * 6 + (9_999,):
            store.append("a", [{"content": "x"}] * count)
        note = Heads(store, key, tmp_path / "last.note").sign()
        export_tiles(store, note, [key.verifier], tmp_path / "tiles")
    made = files(tmp_path / "tiles")
    by_level = {
        level: [name for name in made if re.match(rf"tile/{level}/", name)]
        for level in ("0", "1", "2", "entries")
    }
    for level in ("0", "entries"):
        assert len(by_level[level]) == 274
        assert f"tile/{level}/273.p/112" in made
    assert sorted(by_level["1"]) == ["tile/1/000", "tile/1/001.p/17"]
    assert by_level["2"] == ["tile/2/000.p/1"]
    assert len(made) == 274 * 2 + 3 + 1
    assert len(made["tile/0/000"]) == 8_192
    assert len(made["tile/entries/273.p/112"]) == 112 * (2 + ENTRY_BYTES)
    assert made["checkpoint"] == note
    assert verifier.main(["--key", str(key.verifier), str(tmp_path / "tiles")]) == 0


@pytest.mark.parametrize("size", [2, 3, 255, 256, 257, 511, 512, 700])
def test_every_tile_holds_what_it_says(memory, tmp_path, size):
    """Level 0 holds leaf hashes, the next the roots of full tiles, bundles the entries."""
    note = grow(memory, size)
    assert export_tiles(memory, note, KEYS, tmp_path).size == size
    made, entries = files(tmp_path), log_entries(memory.log, 0, size)
    leaves = [leaf_hash(entry) for entry in entries]
    assert b"".join(made[name] for name in sorted(made) if "tile/0/" in name) == b"".join(leaves)
    framed = b"".join(ENTRY_BYTES.to_bytes(2, "big") + entry for entry in entries)
    assert b"".join(made[name] for name in sorted(made) if "/entries/" in name) == framed
    full = [root_of(leaves[at : at + 256]) for at in range(0, size // 256 * 256, 256)]
    assert b"".join(made[name] for name in sorted(made) if "tile/1/" in name) == b"".join(full)
    assert proven(tmp_path)


def test_a_store_without_events_has_a_checkpoint_only(tmp_path):
    """An empty tree has no tiles."""
    with EventStore(MemoryLog(), MemorySnapshots(), store=ORIGIN.rpartition("/")[2]) as store:
        export_tiles(store, grow(store, 0), KEYS, tmp_path / "tiles")
    assert list(files(tmp_path / "tiles")) == ["checkpoint"]
    assert proven(tmp_path / "tiles")


# -- growing ---------------------------------------------------------------------------------


def test_an_export_goes_on_where_the_last_one_ended(memory, tmp_path):
    """Exports of growing heads leave full tiles alone, and end like one export of all."""
    before: dict[str, int] = {}
    for size in (5, 200, 256, 300, 513, 900):
        note = grow(memory, size)
        export_tiles(memory, note, KEYS, tmp_path / "grown")
        assert proven(tmp_path / "grown")
        full = [
            p for p in (tmp_path / "grown/tile").rglob("*") if p.is_file() and ".p" not in str(p)
        ]
        now = {str(path): path.stat().st_ino for path in full}
        assert now | before == now
        before = now
    export_tiles(memory, note, KEYS, tmp_path / "once")
    grown, once = files(tmp_path / "grown"), files(tmp_path / "once")
    assert grown | once == grown
    assert {name for name in grown.keys() - once.keys() if ".p/" not in name} == set()


def test_an_interrupted_export_is_taken_up(memory, tmp_path, monkeypatch):
    """Without its checkpoint a directory claims nothing; the next export completes it."""
    first = grow(memory, 300)
    export_tiles(memory, first, KEYS, tmp_path / "tiles")
    second = grow(memory, 700)
    shutil.copytree(tmp_path / "tiles", tmp_path / "whole")
    export_tiles(memory, second, KEYS, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut/checkpoint").write_bytes(first)
    (tmp_path / "cut/tile/0/001").write_bytes(b"half")
    assert proven(tmp_path / "cut")
    export_tiles(memory, second, KEYS, tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_tiles_never_go_back(memory, tmp_path):
    """An older head, a head of other events and a directory of another history are refused."""
    old = grow(memory, 300)
    new = grow(memory, 600)
    export_tiles(memory, new, KEYS, tmp_path / "tiles")
    with pytest.raises(ProofError, match="newer than 300"):
        export_tiles(memory, old, KEYS, tmp_path / "tiles")
    other = sign_note(str(Checkpoint(ORIGIN, 600, bytes(32))), KEY)
    with pytest.raises(ProofError, match="not those that were signed"):
        export_tiles(memory, other, KEYS, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "tiles/checkpoint").write_bytes(other)
    with pytest.raises(RollbackDetected):
        export_tiles(memory, new, KEYS, tmp_path / "tiles")
    (tmp_path / "tiles/checkpoint").write_bytes(other[:-5])
    with pytest.raises(ProofError):
        export_tiles(memory, new, KEYS, tmp_path / "tiles")


def test_a_place_that_can_not_be_written_is_named(memory, tmp_path):
    """A file where the directory should be raises StoreUnavailable."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="no tiles can be written"):
        export_tiles(memory, grow(memory, 5), KEYS, tmp_path / "file")


@pytest.mark.parametrize("place", ["", "tiles", "log", "log/deep/tiles", "../linked/tiles"])
def test_no_tiles_go_into_the_store(tmp_path, place):
    """A directory inside the store, or a link into it, is refused, and nothing is made there."""
    with EventStore.open(tmp_path / "history") as store:
        store.create("a")
        (tmp_path / "linked").symlink_to(tmp_path / "history")
        key = SigningKey(origin_of("example.com", store.id), bytes(32))
        note = Heads(store, key, tmp_path / "last.note").sign()
        before = sorted(store.path.rglob("*"))
        with pytest.raises(StoreUnavailable, match="inside the store"):
            export_tiles(store, note, [key.verifier], store.path / place)
        assert sorted(store.path.rglob("*")) == before


def test_a_wrong_tile_in_the_log_is_not_exported(tmp_path):
    """A tile root in the log that its events don't hash to stops the export before the head."""
    with EventStore.open(tmp_path / "history") as store:
        key = SigningKey.generate(origin_of("example.com", store.id))
        store.create("a")
        store.append("a", [{"content": "x"}] * 600)
        with store.log.env.write() as txn:
            txn.put(tile_key(8, 0), bytes(32), db=store.log._tiles)
        root = verifier.node_hash(
            verifier.node_hash(bytes(32), store.log.tiles(8, 1, 2)[0]),
            root_of([leaf_hash(entry) for entry in log_entries(store.log, 512, 601)]),
        )
        for note, error in (
            (sign_note(str(Checkpoint(key.name, 601, store.head().root)), key), ProofError),
            (sign_note(str(Checkpoint(key.name, 601, root)), key), Corruption),
        ):
            with pytest.raises(error):
                export_tiles(store, note, [key.verifier], tmp_path / "tiles")
            assert not (tmp_path / "tiles/checkpoint").exists()


# -- tampering -------------------------------------------------------------------------------


def test_every_file_matters(memory, tmp_path):
    """A byte changed, cut off or added in any file, or a missing file, is rejected."""
    export_tiles(memory, grow(memory, 600), KEYS, tmp_path)
    assert proven(tmp_path)
    for name, good in files(tmp_path).items():
        path = tmp_path / name
        middle = len(good) // 2
        for bad in (
            good[:-1],
            good + b"\x00",
            good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            bytes([good[0] ^ 1]) + good[1:],
            b"",
        ):
            path.write_bytes(bad)
            assert not proven(tmp_path), name
        path.unlink()
        assert not proven(tmp_path), name
        path.write_bytes(good)
    assert proven(tmp_path)


def resigned(directory: Path, entries: list[bytes]) -> None:
    """Write a small directory of tiles over any entries, with a head that the operator signs."""
    leaves = [leaf_hash(entry) for entry in entries]
    width = len(entries)
    framed = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    for kind, content in (("entries", framed), ("0", b"".join(leaves))):
        (directory / f"tile/{kind}/000.p").mkdir(parents=True, exist_ok=True)
        (directory / f"tile/{kind}/000.p/{width}").write_bytes(content)
    head = Checkpoint(ORIGIN, width, root_of(leaves))
    (directory / "checkpoint").write_bytes(sign_note(str(head), KEY))


def test_a_log_that_skips_an_event_is_rejected(memory, tmp_path):
    """Even signed anew, a log without, with a doubled or with a moved event is no whole log."""
    grow(memory, 60)
    entries = log_entries(memory.log, 0, 60)
    resigned(tmp_path, entries)
    assert proven(tmp_path)
    for bad in (
        entries[:30] + entries[31:],
        entries[1:],
        [*entries[:30], entries[30], *entries[30:]],
        [*entries[:30], entries[31], entries[30], *entries[32:]],
    ):
        resigned(tmp_path, bad)
        assert not proven(tmp_path)


def test_a_log_that_goes_back_in_time_is_rejected(memory, tmp_path):
    """Even signed anew, an event recorded before the one in front of it is refused."""
    grow(memory, 60)
    entries = log_entries(memory.log, 0, 60)
    entries[40] = entries[40][:32] + bytes(8) + entries[40][40:]
    resigned(tmp_path, entries)
    assert not proven(tmp_path)


def test_an_entry_of_another_format_is_rejected(memory, tmp_path):
    """Entries have one size and one format number."""
    grow(memory, 20)
    entries = log_entries(memory.log, 0, 20)
    for bad in (b"\x02" + entries[7][1:], entries[7] + b"x", entries[7][:-1], b""):
        resigned(tmp_path, [*entries[:7], bad, *entries[8:]])
        assert not proven(tmp_path)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_the_tiles_know_the_end_of_every_session(tmp_path_factory, turns):
    """Bundles of all sessions agree with the tiles, and none can end early."""
    place = tmp_path_factory.mktemp("tiles")
    with EventStore(MemoryLog(), MemorySnapshots(), store=ORIGIN.rpartition("/")[2]) as store:
        for turn in turns:
            if store.exists(f"s{turn}"):
                store.append(f"s{turn}", {"content": "x"})
            else:
                store.create(f"s{turn}")
        note = sign_note(str(Checkpoint(ORIGIN, len(turns), store.head().root)), KEY)
        export_tiles(store, note, KEYS, place / "tiles")
        for session in store.sessions():
            lines = list(prove_session(store, session, note, KEYS))
            (place / "whole").write_bytes(b"".join(lines))
            head = json.loads(lines[0])
            head["events"] -= 1
            short = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            (place / "short").write_bytes(b"".join([short, *lines[1:-1]]))
            command = ["--key", str(KEY.verifier), str(place / "tiles")]
            assert verifier.main([*command, str(place / "whole")]) == 0
            assert verifier.main([*command, str(place / "short")]) == 1
