"""Signed heads: each extends the last, no rebuilt history extends one, anchors get them all."""

import http.server
import itertools
import random
import sys
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
from signed import KEY, KEYS, NOTE, ORIGIN

from eventstore import EventStore, ProofError, RollbackDetected, StoreUnavailable
from eventstore.audit.anchors import to_command, to_directory, to_url
from eventstore.audit.heads import Heads, check_extends
from eventstore.audit.note import (
    Checkpoint,
    Note,
    open_checkpoint,
    open_rotation,
    origin_of,
    sign_note,
    sign_rotation,
)
from eventstore.audit.signer import SigningKey
from eventstore.log.memory import MemoryLog
from eventstore.state.snapshots import MemorySnapshots

# -- heads of a store ------------------------------------------------------------------------


def fill(store: EventStore) -> None:
    """Append a little."""
    store.create("s")
    store.append("s", [{"role": "user", "content": f"line {number}"} for number in range(20)])


def key_for(store: EventStore) -> SigningKey:
    """Return a fresh key for a store."""
    return SigningKey.generate(origin_of("example.com/support", store.id))


def test_heads_follow_each_other(disk, tmp_path: Path):
    """Each signed head is the log's, is kept before it is given out, and extends the last."""
    key, path = key_for(disk), tmp_path / "outside" / "last.note"
    heads = Heads(disk, key, path)
    assert heads.last() is None
    assert heads.check() is None
    notes = []
    for step in range(4):
        notes.append(heads.sign())
        assert path.read_bytes() == heads.last() == notes[-1]
        assert heads.sign() == notes[-1]
        if not step:
            fill(disk)
        disk.append("s", {"content": "more"})
    head = open_checkpoint(notes[3], [key.verifier])
    assert (head.size, head.origin) == (24, f"example.com/support/{disk.id}")
    assert check_extends(disk, notes[1], [key.verifier]).size == 22
    assert check_extends(disk, notes[0], [key.verifier]).size == 0
    assert [each.name for each in path.parent.iterdir() if "lock" not in each.name] == ["last.note"]


def test_a_head_is_kept_before_it_is_given_out(disk, tmp_path: Path, monkeypatch):
    """Where the head can't be kept, nobody gets it: no anchor, no caller."""
    fill(disk)
    seen: list[bytes] = []
    heads = Heads(disk, key_for(disk), tmp_path / "last.note", anchors=[seen.append])
    (tmp_path / "last.note.new").mkdir()
    with pytest.raises(StoreUnavailable, match=r"last\.note"):
        heads.sign()
    assert (seen, heads.last()) == ([], None)
    (tmp_path / "last.note.new").rmdir()
    assert seen == [] != [heads.sign()] == seen


def test_a_kept_head_in_the_store_is_refused(disk):
    """A head inside the store's directory would be rolled back along with it."""
    with pytest.raises(StoreUnavailable, match="keep it elsewhere"):
        Heads(disk, key_for(disk), disk.path / "last.note")


def test_a_key_of_another_store_is_refused(disk, tmp_path: Path):
    """A key signs for the store in its name; one in memory has no id to sign for."""
    with pytest.raises(ProofError, match="does not sign for store"):
        Heads(disk, KEY, tmp_path / "last.note")
    with EventStore.in_memory() as memory, pytest.raises(ProofError, match="in memory"):
        key_for(memory)


def test_a_note_of_another_store_is_refused(disk, tmp_path: Path):
    """A good head of one store proves nothing about another."""
    with EventStore.open(tmp_path / "other") as other:
        key = key_for(other)
        note = Heads(other, key, tmp_path / "last.note").sign()
        with pytest.raises(ProofError, match="not of store"):
            check_extends(disk, note, [key.verifier])


def test_a_restored_backup_is_a_rollback(tmp_path: Path):
    """A store that lost its newest events is found out by the last signed head, and not signed."""
    with EventStore.open(tmp_path / "history") as store:
        fill(store)
        key = key_for(store)
        store.log.env.copy(_made(tmp_path / "copy"))
        store.append("s", {"content": "lost"})
        note = Heads(store, key, tmp_path / "last.note").sign()
    (tmp_path / "history/log/data.mdb").write_bytes((tmp_path / "copy/data.mdb").read_bytes())
    with EventStore.open(tmp_path / "history") as store:
        heads = Heads(store, key, tmp_path / "last.note")
        for refused in (heads.check, heads.sign):
            with pytest.raises(RollbackDetected, match="22 events was signed, the log has only 21"):
                refused()
        store.append("s", {"content": "other"})
        with pytest.raises(RollbackDetected, match="not those that were signed"):
            heads.sign()
        assert heads.last() == note


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_damaged_kept_head_stops_signing(disk, tmp_path: Path):
    """A kept head that can't be believed is never replaced silently."""
    fill(disk)
    heads = Heads(disk, key_for(disk), tmp_path / "last.note")
    heads.sign()
    (tmp_path / "last.note").write_bytes(heads.last()[:-3])
    before = heads.last()
    with pytest.raises(ProofError):
        heads.sign()
    assert heads.last() == before


def test_a_new_key_follows_the_old_one(disk, tmp_path: Path):
    """After a rotation the new key signs on where the old one ended."""
    fill(disk)
    old, new = key_for(disk), key_for(disk)
    Heads(disk, old, tmp_path / "last.note").sign()
    with pytest.raises(ProofError, match="no known key"):
        Heads(disk, new, tmp_path / "last.note").sign()
    rotation = open_rotation(sign_rotation(old, new, disk.head().size), old.verifier)
    disk.append("s", {"content": "more"})
    heads = Heads(disk, new, tmp_path / "last.note", earlier=[old.verifier])
    assert open_checkpoint(heads.sign(), [rotation.key]).size == rotation.size + 1


def sign_often(path: str, secret: str, kept: str, sizes) -> None:
    """Append and sign in a process of its own."""
    with EventStore.open(path) as store:
        heads = Heads(store, SigningKey.parse(secret), Path(kept))
        for _ in range(8):
            store.append("s", {"content": "x"})
            sizes.put(Checkpoint.parse(Note.parse(heads.sign()).text).size)


def test_several_processes_sign_one_history(tmp_path: Path):
    """Processes that sign at once take turns: the kept head only grows, and ends at the newest."""
    with EventStore.open(tmp_path / "history") as store:
        fill(store)
        key = key_for(store)
    context = get_context("spawn")
    sizes = context.Queue()
    given_ = str(tmp_path / "history"), key.secret(), str(tmp_path / "last.note"), sizes
    workers = [context.Process(target=sign_often, args=given_) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [sizes.get(timeout=60) for _ in range(16)]
    for worker in workers:
        worker.join()
    with EventStore.open(tmp_path / "history") as store:
        last = Heads(store, key, tmp_path / "last.note").check()
    assert last.size == max(found) == 21 + 16


# -- tampering -------------------------------------------------------------------------------


class Script:
    """The commands of a history, which can be told again with a change."""

    def __init__(self) -> None:
        lines = [{"role": "user", "content": f"line {number}"} for number in range(6)]
        self.steps = [
            ("create", "a", {}, "user:1"),
            ("create", "b", {}, "user:1"),
            *(("append", "ab"[n % 2], line, "user:1") for n, line in enumerate(lines)),
        ]
        self.start = 1_700_000_000_000_000_000

    def tell(self, monkeypatch, store_id: str = "01890a5d-ac96-774b-bcce-b302099a8057"):
        """Return a store in memory with this history, the same for the same steps."""
        noise = random.Random(4)
        monkeypatch.setattr("eventstore.audit.entry.os.urandom", noise.randbytes)
        ticks = itertools.count(self.start, 1_000_000)
        store = EventStore(
            MemoryLog(), MemorySnapshots(), store=store_id, clock=lambda: next(ticks)
        )
        for command, session, given_, actor in self.steps:
            if command == "create":
                store.create(session, actor=actor, **given_)
            else:
                store.append(session, given_, actor=actor)
        return store


def _edit(script: Script) -> None:
    script.steps[4] = (*script.steps[4][:2], {"role": "user", "content": "linE 2"}, "user:1")


def _delete(script: Script) -> None:
    del script.steps[4]


def _truncate(script: Script) -> None:
    del script.steps[-1]


def _reorder(script: Script) -> None:
    script.steps[4], script.steps[5] = script.steps[5], script.steps[4]


def _forge(script: Script) -> None:
    script.steps.insert(4, ("append", "a", {"role": "user", "content": "never said"}, "user:1"))


def _replay(script: Script) -> None:
    script.steps.insert(5, script.steps[4])


def _transplant(script: Script) -> None:
    script.steps[4] = ("append", "b", *script.steps[4][2:])


def _rename(script: Script) -> None:
    script.steps[4] = (*script.steps[4][:3], "user:2")


def _backdate(script: Script) -> None:
    script.start -= 1


TAMPERING = [_edit, _delete, _truncate, _reorder, _forge, _replay, _transplant, _rename, _backdate]


def test_an_untouched_history_extends_its_head(monkeypatch):
    """The same commands make the same tree: what the next tests find is the tampering itself."""
    with Script().tell(monkeypatch) as store, Script().tell(monkeypatch) as again:
        assert store.head() == again.head()
        note = sign_note(str(Checkpoint(ORIGIN, 8, store.head().root)), KEY)
        again.append("a", {"content": "more"})
        assert check_extends(again, note, KEYS).size == 8


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda each: each.__name__[1:])
def test_a_rebuilt_history_does_not_extend_its_head(tamper, monkeypatch):
    """An operator who rebuilds the whole store around a change is found out by one old head."""
    with Script().tell(monkeypatch) as store:
        note = sign_note(str(Checkpoint(ORIGIN, 8, store.head().root)), KEY)
    script = Script()
    tamper(script)
    with script.tell(monkeypatch) as forged:
        forged.append("a", {"content": "more"})  # long enough again, where something was cut
        with pytest.raises(RollbackDetected, match="not those that were signed"):
            check_extends(forged, note, KEYS)


# -- anchors ---------------------------------------------------------------------------------


def test_heads_are_anchored_everywhere(disk, tmp_path: Path):
    """A head goes to every anchor: a directory, a command's input, a server."""
    fill(disk)
    received: list[bytes] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        copy = f"import sys; open({str(tmp_path / 'copy')!r}, 'wb').write(sys.stdin.buffer.read())"
        anchors = [
            to_directory(tmp_path / "anchors"),
            to_command([sys.executable, "-c", copy]),
            to_url(f"http://127.0.0.1:{server.server_port}/heads"),
        ]
        note = Heads(disk, key_for(disk), tmp_path / "last.note", anchors=anchors).sign()
    (kept,) = (tmp_path / "anchors").iterdir()
    assert kept.read_bytes() == (tmp_path / "copy").read_bytes() == received[0] == note


def test_a_failing_anchor_is_named_and_tried_again(disk, tmp_path: Path):
    """A head stays kept where an anchor fails; the others get it, and the next call goes on."""
    fill(disk)
    seen: list[bytes] = []
    broken = to_command([sys.executable, "-c", "import sys; sys.exit('out of ink')"])
    heads = Heads(disk, key_for(disk), tmp_path / "last.note", anchors=[broken, seen.append])
    for count in (1, 2):
        with pytest.raises(StoreUnavailable, match="ended with 1: out of ink"):
            heads.sign()
        assert seen == [heads.last()] * count


def test_an_anchor_that_is_not_there_is_unavailable(tmp_path: Path):
    """A missing command, a file for a directory, a closed port and a refusal are named."""
    (tmp_path / "file").write_text("")

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(302)
            self.send_header("Location", "/other")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        port = server.server_port
        with pytest.raises(StoreUnavailable, match="answered 302"):
            to_url(f"http://127.0.0.1:{port}/")(NOTE)
    for anchor in (
        to_directory(tmp_path / "file"),
        to_command([str(tmp_path / "none")]),
        to_url(f"http://127.0.0.1:{port}/"),
    ):
        with pytest.raises(StoreUnavailable):
            anchor(NOTE)
    for url in ("file:///etc/passwd", "ftp://example.com", "example.com"):
        with pytest.raises(StoreUnavailable, match="http and https"):
            to_url(url)
