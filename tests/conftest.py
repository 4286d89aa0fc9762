"""What every test file may ask for: stores, logs, command lines, and Hypothesis profiles.

Invariants: a fixture's store lives in the test's own directory and is closed with the test, but
for three that are made once, and only ever damaged in copies; with CI set, Hypothesis draws the
same examples on every run; the fast tests' files lie in memory where there is room, those of long
ones, or with TMPDIR set, where the system puts them.
"""

import asyncio
import gc
import os
import shutil
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path

import mended
import pytest
from faces import PLAIN, Awaiting
from facts import STORE, fill
from hypothesis import HealthCheck, settings
from tampering import copied
from turns import Asking

from eventstore import EventStore, Keyring, StoreUnavailable
from eventstore.log.lmdb import LmdbLog
from eventstore.log.memory import MemoryLog
from eventstore.place.directory import LOG, ensure_store
from eventstore.sessions import SessionManager
from eventstore.store import starter_dictionary

# Many tests start processes of their own; without byte code each would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_CALM = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile("fast", deadline=None, max_examples=20, suppress_health_check=_CALM)
settings.register_profile("ci", settings.get_profile("fast"), derandomize=True)
settings.register_profile("long", settings.get_profile("fast"), max_examples=2_000)
PROFILE = os.environ.get("TEST_PROFILE") or ("ci" if os.environ.get("CI") else "fast")
settings.load_profile(PROFILE)

MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 2 << 30
"""Free bytes that the files of a run may need."""


def pytest_configure(config: pytest.Config) -> None:
    """Have files in memory, for no fast test can see what a disk keeps when the power fails."""
    asked = "TMPDIR" in os.environ or is_long(config)
    if not asked and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)  # what tests start has it too


def is_long(config: pytest.Config) -> bool:
    """Tell whether the run is one that measures, or that takes its time."""
    return PROFILE == "long" or config.option.markexpr != "not long"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Keep in this process what is measured, shown or small; else there is a worker a core."""
    named = any("::" in each or each.endswith(".py") for each in config.args)
    shown = config.option.capture == "no" or config.option.collectonly
    return 0 if named or shown or is_long(config) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Leave what is imported and collected, which stays, out of every garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def disk(tmp_path: Path):
    """Give a store in the directory `history`."""
    with EventStore.open(tmp_path / "history") as opened:
        yield opened


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """Give a keyring beside the directory `history`, not made yet."""
    return Keyring.file(tmp_path / "keyring")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a place where a keyring may be made."""
    return tmp_path / "secure" / "keyring"


@pytest.fixture
def vault(path: Path):
    """Give a new keyring, unlocked."""
    opened = Keyring.file(path).unlock(STORE, create=True)
    yield opened
    with suppress(StoreUnavailable):  # a test may have closed it
        opened.close()


@pytest.fixture
def sealed(tmp_path: Path, keyring: Keyring):
    """Give an encrypted store in the directory `history`."""
    with EventStore.open(tmp_path / "history", keyring=keyring) as opened:
        yield opened


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path):
    """Give a store in memory, then one on disk."""
    if request.param == "lmdb":
        opened = EventStore.open(tmp_path / "history")
    else:
        opened = EventStore.in_memory()
    with opened:
        yield opened


@pytest.fixture(params=["memory", "lmdb", "sealed"])
def log(request: pytest.FixtureRequest, tmp_path: Path, keyring: Keyring):
    """Give an empty log in memory, then one on disk, then an encrypted one."""
    if request.param == "memory":
        opened = MemoryLog(starter_dictionary())
    else:
        encrypted = request.param == "sealed"
        ensure_store(tmp_path / "history", starter_dictionary(), encrypted=encrypted)
        opened = LmdbLog(tmp_path / "history" / LOG)
        if encrypted:
            opened.unlock(keyring.unlock(opened.store, create=True))
    yield opened
    opened.close()


@pytest.fixture(params=["sync", "async"])
def manager(request: pytest.FixtureRequest):
    """Give a manager over a store in memory, then its async face."""
    with EventStore.in_memory() as store, SessionManager(store, PLAIN) as made:
        if request.param == "sync":
            yield made
        else:
            with asyncio.Runner() as runner:
                yield Awaiting(made, runner)


@pytest.fixture
def sessions():
    """Give a manager of a store in memory with a session `s`."""
    with EventStore.in_memory() as store, SessionManager(store, PLAIN) as made:
        made.create("s")
        yield made


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Asking:
    """Give a way to call methods: from a thread, then from an event loop."""
    return Asking(request.param)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> mended.Original:
    """Give a store with everything in it, closed, to be damaged in copies; not encrypted."""
    return mended.made(tmp_path_factory.mktemp("plain") / "history")


@pytest.fixture(scope="session")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> mended.Original:
    """Give an encrypted one."""
    place = tmp_path_factory.mktemp("encrypted")
    return mended.made(place / "history", Keyring.file(place / "keyring"))


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Give a runner of command lines."""
    # It takes 0.3 s, and what it keeps of the environment pytest_configure() sets up first.
    from commands import Cli  # noqa: PLC0415

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("EVENTSTORE_PATH", raising=False)
    return Cli(tmp_path / "history", capsys, monkeypatch)


@pytest.fixture
def chat(cli, tmp_path_factory: pytest.TempPathFactory):
    """Give a runner whose store holds a session `a` with the messages one, two, three."""
    made_once = tmp_path_factory.getbasetemp() / "a chat"
    if not made_once.exists():
        cli.fine("create", "a", "--meta", "topic=python", "--meta", "n=3")
        for text in ("one", "two", "three"):
            cli.fine("append", "a", "--content", text)
        cli.store.rename(made_once)
    shutil.copytree(made_once, cli.store)
    return cli


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of a store that used every command, an event a millisecond."""
    place = tmp_path_factory.mktemp("made") / "history"
    ticks = count(10**18, 10**6)
    with EventStore.open(place, clock=lambda: next(ticks), actor="user:1") as store:
        fill(store)
    return place


@pytest.fixture
def history(made: Path, tmp_path: Path) -> Path:
    """Give a copy of what was made."""
    return copied(made, tmp_path / "history")
