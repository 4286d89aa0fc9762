"""Settings: where they come from, which wins, and what each wrong one is told."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import DepthExceeded, InvalidEvent
from eventstore.sessions import SessionManager, Settings
from eventstore.sessions.settings import COUNT_MAX

FIELDS = Settings.__struct_fields__
WRONG = {
    "backend": ["redis", "\ud800", None],
    "path": ["", 5, None],
    "keyring": ["", 1],
    "durability": ["never", None],
    "compression": ["gzip", 1],
    "max_depth": [0, 1_001, True, 2.5],
    "ttl": [0, -1, "long", True, float("nan"), float("inf")],
    "token_limit": [0, -1, "many", COUNT_MAX + 1],
    "max_messages": [0, 1.5],
    "max_session_bytes": [0, "1MB"],
    "tokens": ["", None],
    "context_last": [-1, None],
    "summaries": [1, "yes", None],
    "summary_at": [0, 1.01, None],
    "summary_share": [0, 2],
    "summary_tokens": [0, None],
    "summary_messages_min": [1, None],
    "strategy": ["random", None],
    "pruned": ["hide", None],
    "max_sessions": [0, "all"],
    "max_messages_total": [0, -5],
    "message_ttl": [0, -1.0],
    "preserve_dm": [-1, None],
    "preserve_group": [-1, 0.5],
    "similarity": [0, 1.5],
    "cleanup": ["on", 0],
    "cleanup_interval": [0, -1, None],
    "cleanup_batch": [0, 100_000],
    "inactive_after": [0, -1],
    "expired": ["burn", None],
    "cache_sessions": [-1, None],
    "cache_ttl": [0, -2],
    "cache_bytes": [0, None],
    "workers": [0, 5_000],
}
FILES = {
    "settings.toml": "token_limit = 9\nttl = 1.5\nsummaries = false\n",
    "settings.json": '{"token_limit": 9, "ttl": 1.5, "summaries": false}',
    "settings.yaml": "token_limit: 9\nttl: 1.5\nsummaries: false\n",
}


def written(tmp_path, name):
    """Return one of FILES as a file."""
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(FILES[name])
    return tmp_path / name


def text_of(value):
    """Return a value as people write it into a variable."""
    return "none" if value is None else str(value).lower()


def test_every_setting_is_documented_and_tested():
    """The docstring of Settings names every field, and so does the table of wrong values."""
    assert [name for name in FIELDS if f"`{name}`" not in Settings.__doc__] == []
    assert set(WRONG) == set(FIELDS)


@pytest.mark.parametrize("name", FILES)
def test_arguments_win_over_the_environment_over_the_file(tmp_path, name):
    """With TOML, JSON and YAML alike an argument counts first, then a variable, then the file."""
    file = written(tmp_path, name)
    assert Settings.load(file, {}) == Settings(token_limit=9, ttl=1.5, summaries=False)
    found = Settings.load(file, {"EVENTSTORE_TOKEN_LIMIT": "8", "EVENTSTORE_TTL": "none"})
    assert (found.token_limit, found.ttl, found.summaries) == (8, None, False)
    found = Settings.load(file, {"EVENTSTORE_TOKEN_LIMIT": "8"}, token_limit=7, summaries=True)
    assert (found.token_limit, found.ttl, found.summaries) == (7, 1.5, True)


def test_nothing_given_is_the_defaults():
    """Without file, variables and arguments all fields are the defaults, and those are valid."""
    assert Settings.load(environ={}) == Settings()


def test_every_default_survives_the_environment():
    """Each field's default, written as a variable, is read as itself."""
    defaults = msgspec.structs.asdict(Settings())
    texts = {f"EVENTSTORE_{name.upper()}": text_of(value) for name, value in defaults.items()}
    assert Settings.load(environ=texts) == Settings()


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_value_is_told_with_what_is_allowed(name):
    """A value out of range is an error that names the setting, the value and the range."""
    for value in WRONG[name]:
        with pytest.raises(InvalidEvent, match=rf"setting '{name}' is .*; it must be .+") as raised:
            Settings.load(environ={}, **{name: value})
        assert repr(value) in str(raised.value)


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"path", "keyring", "tokens"}))
def test_a_wrong_variable_is_told_by_its_own_name(name):
    """A variable whose text can't be read is an error that names the variable and the range."""
    variable = f"EVENTSTORE_{name.upper()}"
    with pytest.raises(InvalidEvent, match=f"{variable} is 'what'; it must be "):
        Settings.load(environ={variable: "what"})


@given(st.integers())
def test_ranges_are_exact(number):
    """A whole number is accepted from the lowest to the highest that the message names."""
    try:
        assert Settings(token_limit=number).token_limit == number
    except InvalidEvent:
        assert not 1 <= number <= COUNT_MAX
    else:
        assert 1 <= number <= COUNT_MAX


def test_a_wrong_name_is_told_wherever_it_stands(tmp_path):
    """An unknown name is an error that says who set it to what, and which names there are."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"tokenlimit": 5}))
    for call in (
        lambda: Settings.load(file, {}),
        lambda: Settings.load(environ={"EVENTSTORE_TOKENLIMIT": "5"}),
        lambda: Settings.load(environ={}, tokenlimit="5"),
        lambda: SessionManager.open(tmp_path / "history", tokenlimit="5"),
    ):
        with pytest.raises(InvalidEvent, match=r"'tokenlimit' to '?5'?, .* token_limit"):
            call()
    assert not (tmp_path / "history").exists()


def test_variables_of_others_are_left_alone():
    """Variables of other programs, empty ones and those of keyrings are no settings."""
    others = {"EVENTSTORE_KEY": "secret", "EVENTSTORE_KEY_FILE": "x", "A": "b"}
    others["EVENTSTORE_TTL"] = ""
    assert Settings.load(environ=others) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.toml", "token_limit = ", "can't be read"),
        ("a.json", "{", "can't be read"),
        ("a.yaml", "a: [", "can't be read"),
        ("a.json", "[1]", "names and values"),
        ("a.yaml", "1: 2", "names and values"),
        ("a.ini", "", "from .toml, .json, .yaml, .yml files"),
        ("a.toml", "token_limit = 'x'", "'token_limit' is 'x'"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, name, text, told):
    """A file that can't be parsed, has another shape or another suffix is an error that says so."""
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidEvent, match=told):
        Settings.load(tmp_path / name, {})


def test_a_file_that_is_missing_is_told(tmp_path):
    """A file that is not there is an error that names it."""
    with pytest.raises(InvalidEvent, match=r"nowhere\.toml can't be read: No such file"):
        Settings.load(tmp_path / "nowhere.toml", {})


def test_a_manager_takes_settings_and_overrides(tmp_path):
    """Overrides of open() win over the settings it is given, and the path may be a Path."""
    settings = Settings(token_limit=9, max_messages=3)
    with SessionManager.open(tmp_path / "history", settings, token_limit=8) as manager:
        made = manager.create("s")
        assert (made.token_limit, made.max_messages) == (8, 3)
        assert manager.store.path == tmp_path / "history"


def test_a_manager_lives_in_memory_or_on_disk(tmp_path):
    """`backend` chooses the store, with the same methods; one in memory takes no keyring."""
    with SessionManager.open(tmp_path / "none", backend="memory", max_depth=1) as manager:
        assert manager.store.path is None and not (tmp_path / "none").exists()
        manager.create("s")
        manager.branch("s", session_id="b")
        with pytest.raises(DepthExceeded):
            manager.branch("b")
    with pytest.raises(InvalidEvent, match="no keyring"):
        SessionManager.open(backend="memory", keyring=str(tmp_path / "ring"))
    with SessionManager.open(tmp_path / "history", backend="lmdb") as manager:
        assert manager.store.path == tmp_path / "history"


def test_the_environment_reaches_a_manager(tmp_path, monkeypatch):
    """A manager that is opened without settings goes by EVENTSTORE_* variables."""
    monkeypatch.setenv("EVENTSTORE_TOKEN_LIMIT", "77")
    with SessionManager.open(tmp_path / "history") as manager:
        assert manager.create().token_limit == 77
