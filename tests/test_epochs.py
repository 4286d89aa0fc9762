"""Master epochs: keys are destroyed for good, whatever kills the process and whoever else works."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest
from facts import STORE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventstore import Keyring, StoreFull, StoreUnavailable, keyring, masterkey
from eventstore.files import alone
from eventstore.keyring import Unlocked
from eventstore.log.vault import STORE_KEY

BOUND = b"bound"
SECONDS_MAX = 60
LONG = pytest.param(1, marks=pytest.mark.long)


def sealed_by(vault: Unlocked, count: int) -> dict[int, bytes]:
    """Return what as many new keys sealed: the number of each."""
    keys = [vault.fresh()[0] for _ in range(count)]
    return {key: vault.seal(key, str(at).encode(), BOUND) for at, key in enumerate(keys)}


def check_opens(vault: Unlocked, sealed: dict[int, bytes], gone: set[int]) -> None:
    """Assert that exactly the keys that are not gone open what they sealed."""
    for at, (key, body) in enumerate(sealed.items()):
        if key in gone:
            assert vault.commitment(key) is None
            with pytest.raises(KeyError):
                vault.open(body, BOUND)
        else:
            assert vault.open(body, BOUND) == str(at).encode()


def epoch_of(path: Path) -> int:
    """Return the epoch that the key file names."""
    return json.loads(path.read_text())["epoch"]


# -- shredding -------------------------------------------------------------------------------


def test_shredded_keys_are_gone(vault, path):
    """Destroyed keys open nothing any more, all others do, now and after a new start."""
    sealed, name = sealed_by(vault, 20), vault.seal_name(b"s", "alice")
    kept = vault.seal(STORE_KEY, b"kept", BOUND)
    gone = set(list(sealed)[::3])
    assert vault.shred(gone) == 2
    check_opens(vault, sealed, gone)
    again = Keyring.file(path).unlock(STORE)
    check_opens(again, sealed, gone)
    assert again.open(kept, BOUND) == b"kept" and again.open_name(b"s", name) == "alice"
    again.close()


def test_shredding_twice_is_shredding_once(vault, path):
    """A second call, or one for keys that never were, changes no byte and names the same epoch."""
    sealed = sealed_by(vault, 3)
    gone = list(sealed)[:1]
    assert vault.shred(gone) == 2
    before = path.read_bytes()
    assert [vault.shred(gone), vault.shred([]), vault.shred([12_345])] == [2, 2, 2]
    assert path.read_bytes() == before
    assert vault.shred(list(sealed)[:2]) == 3


def test_a_keyring_knows_what_it_destroyed(vault, path):
    """Destroyed keys are remembered with their owner, one that never was is not."""
    gone = sorted(sealed_by(vault, 2))
    vault.shred([gone[0], 12_345], b"sealed name")
    vault.shred([gone[1]])
    known = {gone[0]: b"sealed name", gone[1]: b""}
    assert vault.destroyed() == known
    again = Keyring.file(path).unlock(STORE)
    assert again.destroyed() == known
    again.close()


def test_the_stores_own_key_is_never_destroyed(vault):
    """Asking for it is a bug of the caller."""
    with pytest.raises(AssertionError, match="outlives every erasure"):
        vault.shred([STORE_KEY])


def test_an_old_copy_of_the_keys_gives_nothing_back(vault, path):
    """All wrapped keys of before an erasure are useless with the key file of after it."""
    sealed = sealed_by(vault, 3)
    path.with_name("copy.keys").mkdir()
    vault._env.copy(path.with_name("copy.keys"))
    vault.shred(list(sealed)[:1])
    shutil.copy(path, path.with_name("copy"))
    with pytest.raises(StoreUnavailable, match="holds master epoch 2, its keys are of epoch 1"):
        Keyring.file(path.with_name("copy")).unlock(STORE)
    forged = json.loads(path.read_text()) | {"epoch": 1}
    path.with_name("copy").write_text(json.dumps(forged))
    with pytest.raises(StoreUnavailable, match="does not open the keys"):
        Keyring.file(path.with_name("copy")).unlock(STORE)


def test_the_old_master_key_is_overwritten(vault, path, tmp_path):
    """The very file that held the old key holds zeros, not only another name's bytes."""
    sealed = sealed_by(vault, 2)
    old = tmp_path / "same file"
    old.hardlink_to(path)
    key = json.loads(old.read_text())["key"]
    vault.shred(list(sealed)[:1])
    assert old.read_bytes() == bytes(old.stat().st_size)
    assert json.loads(path.read_text())["key"] != key
    assert path.stat().st_mode & 0o777 == 0o600
    left = b"".join(each.read_bytes() for each in path.parent.rglob("*") if each.is_file())
    assert key.encode() not in left and base64.b64decode(key) not in left


@settings(suppress_health_check=[*HealthCheck], max_examples=15)
@given(steps=st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(0, 19), max_size=3))))
def test_any_history_of_keys(tmp_path_factory, steps):
    """However keys come and go, a key opens what it sealed until it is destroyed."""
    path = tmp_path_factory.mktemp("keys") / "keyring"
    vault = Keyring.file(path).unlock(STORE, create=True)
    sealed: dict[int, bytes] = {}
    gone: set[int] = set()
    epoch = 1
    for count, picks in steps:
        keys = [vault.fresh()[0] for _ in range(count)]
        first = len(sealed)
        sealed |= {k: vault.seal(k, str(first + i).encode(), BOUND) for i, k in enumerate(keys)}
        doomed = {key for at, key in enumerate(sealed) if at in picks}
        epoch += bool(doomed - gone)
        gone |= doomed
        assert vault.shred(doomed) == epoch == epoch_of(path)
        check_opens(vault, sealed, gone)
    vault.close()


def test_a_damaged_key_stops_no_erasure(vault):
    """A wrapped key that is damaged stays damaged, and every other one is wrapped anew."""
    sealed = sealed_by(vault, 4)
    damaged, doomed, *_ = sealed
    with vault._env.write() as txn:
        row = bytes(txn.get(damaged.to_bytes(8, "big"), db=vault._keys))
        txn.put(damaged.to_bytes(8, "big"), row[:-1] + b"?", db=vault._keys)
    assert vault.shred([doomed]) == 2
    del sealed[damaged]
    check = {key: body for key, body in sealed.items() if key != doomed}
    assert [vault.open(body, BOUND) for body in check.values()] == [b"2", b"3"]


# -- what kills a change ---------------------------------------------------------------------

WATCHED = {keyring.__file__, masterkey.__file__, alone.__wrapped__.__code__.co_filename}


def kill_after(lines: int):
    """Return a trace function that kills the process before the n-th line of the keyring."""
    left = lines

    def trace(frame: FrameType, event: str, _: object):
        nonlocal left
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def survives(lines: int, work) -> bool:
    """Run `work` in a forked child that is killed before its n-th line; True if it got through."""
    child = os.fork()
    if child == 0:
        try:
            vault = work(None)
            sys.settrace(kill_after(lines))
            work(vault)
            sys.settrace(None)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with {status}"
    return status == 0


@pytest.mark.parametrize("step", [11, LONG])
def test_killed_within_a_shred(path, tmp_path, step):
    """After kill -9 before any line the keyring is whole: of the old epoch or of the new one."""
    vault = Keyring.file(path).unlock(STORE, create=True)
    sealed = sealed_by(vault, 3)
    doomed = next(iter(sealed))
    vault.close()
    epochs = []
    for lines in range(1, 1_000, step):
        place = tmp_path / str(lines)
        shutil.copytree(path.parent, place)
        copy = Keyring.file(place / "keyring")
        through = survives(
            lines, lambda v, c=copy: c.unlock(STORE) if v is None else v.shred([doomed])
        )
        again = copy.unlock(STORE)
        epochs.append(epoch_of(copy.path))
        check_opens(again, sealed, {doomed} if epochs[-1] == 2 else set())
        assert sorted(each.name for each in place.iterdir()) == ["keyring", "keyring.keys"]
        assert again.shred([doomed]) == 2
        check_opens(again, sealed, {doomed})
        again.close()
        shutil.rmtree(place)
        if through:
            break
    assert through and epochs == sorted(epochs) and set(epochs) == {1, 2}


@pytest.mark.parametrize("step", [11, LONG])
def test_killed_within_the_first_unlocking(tmp_path, step):
    """A keyring whose making was cut short is made anew, or is whole."""
    for lines in range(1, 1_000, 2 * step):
        place = tmp_path / str(lines)
        made = Keyring.file(place / "keyring")
        through = survives(
            lines, lambda v, m=made: m if v is None else v.unlock(STORE, create=True)
        )
        again = made.unlock(STORE, create=True)
        check_opens(again, sealed_by(again, 2), set())
        left = sorted(each.name for each in place.iterdir() if not each.name.startswith("."))
        assert left == ["keyring", "keyring.keys"]  # beside them may be a directory without keys
        again.close()
        shutil.rmtree(place)
        if through:
            break
    assert through and lines > 100


@pytest.mark.parametrize("size", [0, 1, 60, 104])
@pytest.mark.parametrize("zeros", [False, True])
def test_a_torn_next_key_is_dropped(vault, path, size, zeros):
    """While the keys are of the old epoch, a next key of any length or in zeros is no obstacle."""
    sealed = sealed_by(vault, 2)
    following = path.with_name("keyring.next")
    vault._file.prepare(STORE, 2)
    raw = bytes(size) if zeros else following.read_bytes()[:size]
    following.write_bytes(raw)
    again = Keyring.file(path).unlock(STORE)
    check_opens(again, sealed, set())
    assert not following.exists() and epoch_of(path) == 1
    assert again.shred(list(sealed)[:1]) == 2
    again.close()


@pytest.mark.parametrize("left", ["whole", "zeros", "half", "gone"])
def test_the_next_key_counts_once_the_keys_are_its(vault, path, left):
    """Once the keys are of the new epoch, its key takes the place of whatever the old file is."""
    sealed = sealed_by(vault, 2)
    doomed = next(iter(sealed))
    old = path.read_bytes()
    vault._change_epoch([doomed], b"")
    if left == "gone":
        path.unlink()
    else:
        path.write_bytes({"whole": old, "zeros": bytes(len(old)), "half": old[:52]}[left])
    again = Keyring.file(path).unlock(STORE)
    check_opens(again, sealed, {doomed})
    check_opens(vault, sealed, {doomed})
    assert epoch_of(path) == 2 and not path.with_name("keyring.next").exists()
    again.close()


def test_files_that_do_not_belong_together_are_left_alone(vault, path):
    """Where neither file is of the keys' epoch, both stay as they are for a person to look at."""
    vault._file.prepare(STORE, 7)
    said = json.loads(path.read_text()) | {"epoch": 5}
    path.write_text(json.dumps(said))
    before = path.read_bytes(), path.with_name("keyring.next").read_bytes()
    with pytest.raises(StoreUnavailable, match="holds master epoch 5, its keys are of epoch 1"):
        Keyring.file(path).unlock(STORE)
    assert before == (path.read_bytes(), path.with_name("keyring.next").read_bytes())


def test_a_full_keyring_changes_nothing(path, monkeypatch):
    """Where there is no room to wrap the keys anew the old epoch goes on, its files as before."""
    monkeypatch.setattr(keyring, "KEYRING_MAP_BYTES", 200 << 10)
    vault = Keyring.file(path).unlock(STORE, create=True)
    sealed: dict[int, bytes] = {}
    with suppress(StoreFull):
        while len(sealed) < 10_000:
            sealed[vault.fresh()[0]] = b""
    sealed = {k: vault.seal(k, str(i).encode(), BOUND) for i, k in enumerate(sealed)}
    with pytest.raises(StoreFull):
        vault.shred(list(sealed)[:1])
    check_opens(vault, sealed, set())
    assert epoch_of(path) == 1 and not path.with_name("keyring.next").exists()
    vault.close()


def test_a_key_service_that_is_away(path):
    """While the root key can't be had nothing is destroyed; later the same call succeeds."""
    answers = {"root": bytes(range(32))}
    vault = Keyring.of(lambda: answers["root"], path).unlock(STORE, create=True)
    sealed = sealed_by(vault, 2)
    doomed, root = next(iter(sealed)), answers.pop("root")
    with pytest.raises(StoreUnavailable, match="its callable raised KeyError"):
        vault.shred([doomed])
    check_opens(vault, sealed, set())
    answers["root"] = root
    assert vault.shred([doomed]) == 2
    check_opens(vault, sealed, {doomed})
    vault.close()


# -- others at work --------------------------------------------------------------------------


def test_another_vault_of_the_process_notices(vault, path):
    """A key that is in the cache of another unlocked keyring is gone there at once."""
    other = Keyring.file(path).unlock(STORE)
    sealed = sealed_by(vault, 3)
    check_opens(other, sealed, set())
    gone = set(list(sealed)[:2])
    vault.shred(gone)
    check_opens(other, sealed, gone)
    with pytest.raises(KeyError):
        other.seal(min(gone), b"", b"")
    check_opens(vault, more := sealed_by(other, 3), set())
    assert not gone & more.keys()
    other.close()


WORKER = """
import sys
from eventstore import Keyring

vault = Keyring.file(sys.argv[1]).unlock(sys.argv[2])
shared = int(sys.argv[3])
mine, turn = {}, 0
print("ready", flush=True)
while True:
    key, _ = vault.fresh()
    assert key not in mine
    mine[key] = vault.seal(key, str(turn).encode(), b"bound")
    for at, (key, body) in enumerate(mine.items()):
        if at % 7 == turn % 7:
            assert vault.open(body, b"bound") == str(at).encode()
    turn += 1
    try:
        vault.seal(shared, b"", b"")
    except KeyError:
        break
print(*(f"{key:x}:{body.hex()}" for key, body in mine.items()), flush=True)
assert sys.stdin.readline() == "gone\\n"
try:
    vault.seal(shared, b"", b"")
except KeyError:
    print("gone here too", flush=True)
"""


def test_processes_work_while_another_shreds(vault, path):
    """Two processes take keys and seal while a third changes the epoch: no key is lost or kept."""
    shared, doomed = vault.fresh()[0], [vault.fresh()[0] for _ in range(30)]
    command = [sys.executable, "-c", WORKER, str(path), STORE, str(shared)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [each.stdout.readline() for each in workers] == ["ready\n"] * 2
    for at, key in enumerate(doomed):
        assert vault.shred([key]) == at + 2
    assert vault.shred([shared]) == 32
    said = [each.stdout.readline().split() for each in workers]
    rest = [each.communicate("gone\n", timeout=SECONDS_MAX)[0] for each in workers]
    assert rest == ["gone here too\n"] * 2
    keys = [int(pair.split(":")[0], 16) for pairs in said for pair in pairs]
    assert len(keys) == len(set(keys)) > 10
    for pairs in said:
        mine = {int(key, 16): bytes.fromhex(body) for key, body in (p.split(":") for p in pairs)}
        check_opens(vault, mine, set())


def test_two_processes_make_one_keyring(path):
    """Processes that make the same keyring at once end up with the same keys."""
    script = (
        "import sys; from eventstore import Keyring\n"
        "vault = Keyring.file(sys.argv[1]).unlock(sys.argv[2], create=True)\n"
        "print(vault.commitment(0).hex(), vault.seal_name(b's', 'alice').hex())"
    )
    command = [sys.executable, "-c", script, str(path), STORE]
    makers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {each.communicate(timeout=SECONDS_MAX)[0] for each in makers}
    assert [each.returncode for each in makers] == [0, 0, 0] and len(said) == 1


def test_a_forked_child_starts_afresh(vault):
    """In a forked child every use is refused: both would hand out the same keys."""
    key, body = next(iter(sealed_by(vault, 5).items()))
    assert vault._pool, "there must be keys that both could hand out"
    uses = [vault.fresh, lambda: vault.seal(key, b"", b""), lambda: vault.open(body, BOUND)]
    child = os.fork()
    if child == 0:
        refused = [refusal(use) for use in uses]
        os._exit(sum("unlocked before a fork" in each for each in refused))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == len(uses)


def refusal(use) -> str:
    """Return the words in which the store refuses."""
    try:
        return f"not refused: {use()}"
    except StoreUnavailable as error:
        return str(error)
