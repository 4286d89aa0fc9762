"""The doctor: what it says of healthy, open, dead, damaged and full stores, and what to do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from facts import fill

from eventstore import EventStore, Keyring, StoreUnavailable, errors
from eventstore.audit.pages import PageFile
from eventstore.audit.verify import verify, verify_directory
from eventstore.care.doctor import Advice, Diagnosis, diagnose, room_of
from eventstore.cli.app import run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give the directory of a filled store that nobody has open."""
    with EventStore.open(tmp_path / "history") as store:
        fill(store)
    return tmp_path / "history"


def urgent(found: Diagnosis) -> str:
    """Return what is to be done at once, as text."""
    return "\n".join(f"{each.what}: {each.do}" for each in found.advice if each.urgent)


def hints(found: Diagnosis) -> str:
    """Return all else."""
    return "\n".join(f"{each.what}: {each.do}" for each in found.advice if not each.urgent)


def dies_with(place: Path, code: str) -> None:
    """Run a child that opens the store and is killed with it open."""
    start = "import os, signal, sys\nfrom eventstore import EventStore\n"
    command = [sys.executable, "-c", start + code + "\nos.kill(os.getpid(), signal.SIGKILL)"]
    done = subprocess.run([*command, str(place)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_looking_leaves_a_store_alone_that_is_open_here(place):
    """Who has a store open can look at its files: LMDB keeps its locks, readers and mutexes."""
    with EventStore.open(place) as store, EventStore.open(place, read_only=True) as other:
        assert diagnose(str(place)).healthy
        assert verify_directory(str(place)).sound
        store.append("a", {"role": "user", "content": "still here"})
        assert other.head() == store.head()
        assert verify(store).sound


def test_a_healthy_store_needs_nothing(place):
    """Its numbers are those of the store; who only looks leaves nothing behind."""
    found = diagnose(place)
    assert found.healthy
    assert not found.unclean_stop
    assert (found.alive, found.dead, found.signed) == ([], [], None)
    with EventStore.open(place, read_only=True) as store:
        head = store.head()
        assert (found.store, found.size, found.root) == (store.id, head.size, head.root.hex())
        assert found.recorded_at == head.recorded_at
    (log,) = [each for each in found.files if each.name == "log"]
    assert log.file_bytes == (place / "log" / "data.mdb").stat().st_size >= log.used_bytes > 0
    assert log.map_bytes >= log.used_bytes
    assert found.volume.free_bytes > 0
    assert found.volume.kind != "unknown"
    assert list((place / "open").iterdir()) == []


def test_who_has_it_open_is_named(place):
    """Each process with the store open is there, and how; a reader in a transaction too."""
    with EventStore.open(place) as store, store.log.env.begin():
        store.append("a", {"content": "meanwhile"})
        found = diagnose(place)
        assert found.healthy
        assert [(each.pid, each.read_only) for each in found.alive] == [(os.getpid(), False)]
        assert [(each.process, each.behind, each.alive) for each in found.readers] == [
            (os.getpid(), 1, True)
        ]


def test_an_unclean_stop_is_told_until_it_is_looked_after(place):
    """A writer that died is named, sound pages are called so, and the next opening ends it."""
    dies_with(place, "store = EventStore.open(sys.argv[1])\nstore.create('more')")
    for _ in range(2):
        found = diagnose(place)
        assert found.healthy
        assert (found.unclean_stop, len(found.dead)) in ((True, 1), (False, 0))
        if found.unclean_stop:
            assert f"process {found.dead[0].pid} did not close it; all pages are sound" in hints(
                found
            )
    EventStore.open(place).close()
    assert not diagnose(place).unclean_stop


def test_damage_is_named_and_repair_advised(place):
    """After an unclean stop a broken page is named, and nobody opens it through LMDB."""
    dies_with(place, "store = EventStore.open(sys.argv[1])\nstore.create('more')")
    file = place / "log" / "data.mdb"
    with PageFile(file) as pages:
        root = pages.metas()[0].main.root * pages.page_bytes
    content = bytearray(file.read_bytes())
    content[root : root + 4_096] = bytes(4_096)
    file.write_bytes(content)
    found = diagnose(place)
    assert not found.healthy
    assert found.size is None
    assert "log/data.mdb" in urgent(found)
    assert "eventstore repair" in urgent(found)


def test_a_missing_or_emptied_log_is_told(place):
    """Without its file, or with an empty one, the advice is to restore or repair."""
    file = place / "log" / "data.mdb"
    file.write_bytes(b"")
    assert not diagnose(place).healthy
    file.unlink()
    assert "log/data.mdb is missing: restore a backup" in urgent(diagnose(place))
    with pytest.raises(StoreUnavailable, match="holds no event store"):
        diagnose(place.parent)


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"format": 1, "stor'])
def test_without_its_description_a_store_is_to_be_repaired(place, tmp_path, capsys, content):
    """Where it is damaged or missing doctor and verify say what helps, and that does help."""
    marker = place / "eventstore.json"
    marker.unlink() if content is None else marker.write_bytes(content)
    for command in ("doctor", "verify"):
        assert run(["--store", str(place), command]) == 2
        assert "'eventstore repair' makes a new store of its log" in capsys.readouterr().err
    assert run(["repair", str(place), str(tmp_path / "made")]) == 0
    assert run(["--store", str(tmp_path / "made"), "doctor"]) == 0


def test_an_encrypted_store_is_looked_at_without_its_keys(tmp_path):
    """No key is needed to say how it is."""
    with EventStore.open(tmp_path / "h", keyring=Keyring.file(tmp_path / "keyring")) as store:
        fill(store)
        size = store.head().size
    found = diagnose(tmp_path / "h")
    assert found.healthy
    assert found.encrypted
    assert found.size == size


def test_a_nearly_used_map_is_told(tmp_path):
    """From 80 % of the map on there is a hint which option makes it larger."""
    with lmdb.open(str(tmp_path), map_size=1 << 20) as env:
        for number, hinted in enumerate([False, True]):
            with env.begin(write=True) as txn:
                txn.put(b"%d" % number, bytes(420 << 10))
            advice: list[Advice] = []
            room = room_of(tmp_path, advice)
            assert room.used_bytes > 420 << 10 << number
            assert room.map_bytes == 1 << 20
            assert [each.do for each in advice] == [
                "open the store with a larger map_size="
            ] * hinted


def test_a_store_that_was_set_back_is_told(place, capsys):
    """The last signed head is shown; one that the log does not lead on from is urgent."""
    assert run(["--store", str(place), "keygen", "--name", "example.com/tests"]) == 0
    before = (place / "log" / "data.mdb").read_bytes()
    with EventStore.open(place) as store:
        store.create("more")
    assert run(["--store", str(place), "checkpoint"]) == 0
    signed = diagnose(place).signed
    assert signed is not None
    assert signed.size == diagnose(place).size
    (place / "log" / "data.mdb").write_bytes(before)
    (place / "log" / "lock.mdb").unlink()
    found = diagnose(place)
    assert "was signed, the log has only" in urgent(found)
    capsys.readouterr()
    assert run(["--store", str(place), "doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["healthy"], told["signed"]["size"]) == (False, signed.size)


def test_the_command_line_cares_for_a_store(place, tmp_path, capsys):
    """doctor, compact, backup --incremental, compare, restore --at-position and repair, in turn."""
    here = ["--store", str(place), "--json"]

    def told(*words: str, code: int = 0) -> dict:
        assert run([*here, *words]) == code
        return json.loads(capsys.readouterr().out)

    assert told("doctor")["healthy"]
    assert told("compact")["files"][0]["name"] == "log"
    copy, size = str(tmp_path / "copy"), told("backup", str(tmp_path / "copy"))["size"]
    with EventStore.open(place) as store:
        store.create("more")
    assert told("compare", str(place), copy) == {
        "equal": True,
        "size": size,
        "behind": 1,
        "findings": [],
    }
    assert told("backup", copy, "--incremental")["size"] == size + 1
    assert told("compare", str(place), copy)["behind"] == 0
    past = told("restore", copy, str(tmp_path / "past"), "--at-position", "20")["size"]
    assert 20 < past < size
    then = told("restore", copy, str(tmp_path / "then"), "--at-time", "2199-01-01T00:00:00Z")
    assert then["size"] == size + 1
    assert told("repair", copy, str(tmp_path / "saved"))["whole"]
    data = bytearray((place / "log" / "data.mdb").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (place / "log" / "data.mdb").write_bytes(data)
    report = told("repair", str(place), str(tmp_path / "rest"), code=1)
    assert report["kept"] < size
    assert report["positions"] or not report["size_known"]


def test_people_are_told_too(place, tmp_path, capsys):
    """The same answers as text: one line of verdict, then what and how much."""
    assert run(["--store", str(place), "doctor"]) == 0
    assert "✓ healthy" in capsys.readouterr().out
    assert run(["--store", str(place), "compact"]) == 0
    assert " -> " in capsys.readouterr().out
    assert run(["repair", str(place), str(tmp_path / "saved")]) == 0
    assert "✓" in capsys.readouterr().out
    assert run(["compare", str(place), str(tmp_path / "saved")]) == 0
    assert "✓ equal" in capsys.readouterr().out


def test_operations_says_what_each_error_asks_for():
    """The table in docs/operations.md has a row for every error of the tree."""
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    tree = [name for name, kind in vars(errors).items() if isinstance(kind, type)]
    assert len(tree) > 20
    assert [name for name in tree if f"\n| `{name}` |" not in text] == []
