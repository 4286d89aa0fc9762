"""The demo: it holds the store to plain Python, and says so when something differs."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from commands import on_screen

from eventstore import EventStore
from eventstore.cli import demo, run
from eventstore.cli.journal import Journal, Replays, spread
from eventstore.cli.story import SHORTEST, Story
from eventstore.interchange.chitchat import chitchat_path

pytest.importorskip("chitchat_dataset")

LIMIT = ["--limit", "30"]


@pytest.fixture
def told():
    """Give a store and a journal in which four conversations had every kind of change."""
    journal = Journal()
    with EventStore.in_memory() as store:
        for number in range(4):
            session = f"s{number}"
            journal.note(store.create(session), [])
            for index in range(SHORTEST):
                text = f"{session} says {index}"
                receipt = store.append(session, {"role": "user", "content": text})
                journal.note(receipt, [*journal.now(session), text])
            Story(store, journal, session, number).tell()
        yield store, journal


def replayed(store: EventStore, journal: Journal) -> Replays:
    """Replay everything the journal knows."""
    replays = Replays(store, journal)
    for session, entries in journal.entries.items():
        replays.compare_all(session, entries)
    return replays


def test_stories_replay_as_the_journal_says(told: tuple[EventStore, Journal]):
    """Every moment of every session, by version, position and time, is what lists say it was."""
    replays = replayed(*told)
    assert replays.count > 300
    assert replays.wrong == []


def test_a_wrong_replay_is_noticed(told: tuple[EventStore, Journal]):
    """One text that differs in the journal: that moment is named, by all three ways to it."""
    store, journal = told
    entry = journal.entries["s1"][7]
    journal.entries["s1"][7] = entry._replace(texts=["something else"], lines=1)
    wrong = replayed(store, journal).wrong
    assert len(wrong) == 3
    assert f"s1 at version {entry.version}" in wrong[0]


def test_spread_keeps_both_ends():
    """The sample is as large as asked for and holds the first and the last."""
    assert spread([1, 2, 3], 5) == [1, 2, 3]
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]


def test_a_limit_beyond_the_data_set_is_all_of_it():
    """However large the limit is, there are no more conversations than there are."""
    assert len(demo.Source(chitchat_path(), 10**30)) == 7_168


def test_a_small_demo_holds_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Exit 0, all steps told in at most 80 columns, its temporary store removed."""
    on_screen(monkeypatch, 80)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run(["demo", *LIMIT]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "every check held" in out
    assert "✗" not in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert list(tmp_path.iterdir()) == []


def test_the_demo_for_machines_keeps_a_chosen_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """--json gives one document; --store keeps the store, which is sound; it must be new."""
    store = tmp_path / "kept"
    assert run(["demo", *LIMIT, "--json", "--store", str(store)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["held"], found["conversations"]) == (True, 30)
    assert [step["name"] for step in found["steps"]] == [
        *("import", "read back", "change", "replay", "count", "verify")
    ]
    assert run(["verify", "--deep", "--store", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["root"] == found["root"]
    assert run(["demo", *LIMIT, "--store", str(store)]) == 2
    assert "must be new or empty" in capsys.readouterr().err


def test_a_failed_check_is_exit_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """When the source differs from what came in, the step says which and the demo ends with 1."""
    honest = demo.Source.__getitem__
    changed: list[str] = []

    def lying(source: demo.Source, session: str) -> list[demo.Said]:
        said = honest(source, session)
        changed[:] = changed or [session]
        return [*said[:-1], said[-1]._replace(sender="nobody")] if session == changed[0] else said

    monkeypatch.setattr(demo.Source, "__getitem__", lying)
    assert run(["demo", "--limit", "10"]) == 1
    out = capsys.readouterr().out
    assert "✗ read back" in out
    assert f"{changed[0]} differs" in out
    assert "not every check held" in out


def test_without_the_data_set_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The package is missing: exit 2 and how to get it."""
    monkeypatch.setitem(sys.modules, "chitchat_dataset", None)
    assert run(["demo"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'session-eventstore[demo]'" in err
    assert err.count("\n") == 1


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path):
    """Interrupted: exit 130, no traceback, the temporary store removed."""
    script = f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}; import eventstore.cli as c;"
    script += "import sys; sys.exit(c.run(['demo', '--limit', '300']))"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        while b"import" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"eventstore: interrupted\n")
    assert list(tmp_path.iterdir()) == []
