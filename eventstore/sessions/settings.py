"""Settings: one typed object for everything a session manager can be told.

Invariants: every field has a default, a unit and a range, and an object that exists is valid;
keyword arguments win over the environment (`EVENTSTORE_` and the field's name in capitals; an
empty variable is one that is not set), the environment over the file; a name or value that is
wrong is an InvalidEvent that names it and what is allowed, and then nothing was opened.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ..errors import InvalidEvent, brief
from ..files import checked_path
from ..limits import APPEND_EVENTS_MAX, GIB, TTL_SECONDS_MAX

ENVIRONMENT_PREFIX = "EVENTSTORE_"
SECRETS_PREFIX = "EVENTSTORE_KEY"
"""Variables that begin so and are no setting hold the secrets of keyrings."""

OTHERS_VARIABLES = ("audit", "network_filesystem")
"""Variables of the store and of the command line, by what follows the prefix."""

DAY_SECONDS = 86_400.0
"""The time to live of a session that is made from a preset which expires."""

COUNT_MAX = 1_000_000_000_000
"""The largest count of sessions, messages or tokens that a setting takes."""

Count = Annotated[int, Meta(ge=1, le=COUNT_MAX)]
Kept = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Bytes = Annotated[int, Meta(ge=1, le=1_024 * GIB)]
Seconds = Annotated[float, Meta(gt=0, le=TTL_SECONDS_MAX)]
Share = Annotated[float, Meta(gt=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a SessionManager goes by; see `Settings.load` for where it comes from.

    The store (used by SessionManager.open):
    `backend`: "lmdb" for one on disk, "memory" for one that lives as long as the manager, for
    which the other settings of the store but `max_depth` mean nothing; `path`: its directory;
    `keyring`: the keyring's file, which makes a new store an encrypted one, None for a plain one;
    `durability`, `compression`: as EventStore.open takes them; `max_depth`: branches of branches,
    1 to 1,000.

    New sessions, where create() says nothing else:
    `ttl`: seconds to live, None for ever; `token_limit`: tokens of the visible messages that a
    session is meant for; `max_messages`: visible messages, older ones are pruned, None for no
    limit; `max_session_bytes`: payload bytes of all messages, more are refused, None for no limit.

    Counting and the context window:
    `tokens`: "characters" (4 a token) or the name of an exact encoding such as "o200k_base";
    `context_last`: messages of a context window, at most.

    Summaries:
    `summaries`: whether they are made by themselves; `summary_at`: share of the token limit that
    starts one; `summary_share`: the older part of the messages that it covers; `summary_tokens`:
    its length at most; `summary_messages_min`: fewer messages are left alone.

    Pruning:
    `strategy`: which sessions go first; `pruned`: what becomes of them; `max_sessions`,
    `max_messages_total`: limits of the whole store, None for none; `message_ttl`: seconds that a
    message is shown unless its own metadata says otherwise, None for ever; `preserve_dm`,
    `preserve_group`: newest messages that sessions of that type keep; `similarity`: from where on
    two messages are near-duplicates, 0 to 1.

    Cleanup in the background:
    `cleanup`: whether start() runs it; `cleanup_interval`: seconds between two rounds;
    `cleanup_batch`: sessions a round takes at a time; `inactive_after`: seconds without a fact
    until a session is closed, None for never; `expired`: what becomes of expired sessions.

    The cache of session headers:
    `cache_sessions`: entries at most, 0 for no cache; `cache_ttl`: seconds that one stays, None
    for ever; `cache_bytes`: of all entries, encoded.

    `workers`: threads that the async face runs its calls in.
    """

    backend: Literal["lmdb", "memory"] = "lmdb"
    path: Text = "history"
    keyring: Text | None = None
    durability: Literal["sync", "buffered"] = "sync"
    compression: Literal["zstd", "none"] = "zstd"
    max_depth: Annotated[int, Meta(ge=1, le=1_000)] = 10

    ttl: Seconds | None = None
    token_limit: Count | None = 4_000
    max_messages: Count | None = None
    max_session_bytes: Bytes | None = None

    tokens: Text = "characters"
    context_last: Annotated[int, Meta(ge=0, le=1_000_000)] = 20

    summaries: bool = True
    summary_at: Share = 0.7
    summary_share: Share = 0.7
    summary_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    summary_messages_min: Annotated[int, Meta(ge=2, le=1_000_000)] = 10

    strategy: Literal["lru", "lfu", "ttl", "size", "semantic"] = "lru"
    pruned: Literal["archive", "delete"] = "archive"
    max_sessions: Count | None = None
    max_messages_total: Count | None = None
    message_ttl: Seconds | None = None
    preserve_dm: Kept = 100
    preserve_group: Kept = 50
    similarity: Share = 0.85

    cleanup: bool = True
    cleanup_interval: Annotated[float, Meta(ge=0.01, le=TTL_SECONDS_MAX)] = 3_600.0
    cleanup_batch: Annotated[int, Meta(ge=1, le=APPEND_EVENTS_MAX)] = 100
    inactive_after: Seconds | None = None
    expired: Literal["delete", "close", "archive"] = "delete"

    cache_sessions: Annotated[int, Meta(ge=0, le=10_000_000)] = 1_000
    cache_ttl: Seconds | None = None
    cache_bytes: Bytes = 2_048_000

    workers: Annotated[int, Meta(ge=1, le=1_024)] = 64

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check(name, getattr(self, name))

    @classmethod
    def load(
        cls,
        file: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        **overrides: Any,
    ) -> Self:
        """Return settings from a TOML, JSON or YAML file, the environment and arguments.

        The file holds the fields' names at its top level. Raises InvalidEvent.
        """
        given: dict[str, Any] = {}
        if file is not None:
            given |= _known(_read(checked_path(file, "file")), f"the file {file}")
        given |= _from_environment(environ)
        given |= _known(overrides, "the arguments")
        return cls(**given)


_KINDS: dict[str, Any] = get_type_hints(Settings, include_extras=True)


def _check(name: str, value: object) -> None:
    """Raise InvalidEvent unless a setting may have this value; 1 and True are never the same."""
    try:
        msgspec.convert(value, _KINDS[name], strict=True)
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise InvalidEvent(
            f"setting {name!r} is {brief(value)}; it must be {_range(name)}"
        ) from None


def _known(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(found) - set(_KINDS))
    if unknown:
        name = unknown[0]
        raise InvalidEvent(
            f"{where} set {name!r} to {brief(found[name])}, but there is no such setting; "
            f"there are {', '.join(_KINDS)}"
        )
    return dict(found)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    texts = {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): text
        for name, text in environ.items()
        if text and name.startswith(ENVIRONMENT_PREFIX)
    }
    secrets = SECRETS_PREFIX.removeprefix(ENVIRONMENT_PREFIX).lower()
    others = [each for each in texts if each.startswith(secrets) or each in OTHERS_VARIABLES]
    for name in set(others) - set(_KINDS):
        del texts[name]
    return {name: _parsed(name, text) for name, text in _known(texts, "the environment").items()}


def _parsed(name: str, text: str) -> Any:
    """Return the value that a variable's text stands for; "none" stands for None."""
    value = None if text.strip().lower() == "none" else text
    try:
        return msgspec.convert(value, _KINDS[name], strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        variable = ENVIRONMENT_PREFIX + name.upper()
        raise InvalidEvent(f"{variable} is {text!r}; it must be {_range(name)}") from None


# -- files -----------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    """Return what a file says, by its suffix."""
    decode = _DECODERS.get(file.suffix.lower())
    if decode is None:
        raise InvalidEvent(f"settings come from {', '.join(_DECODERS)} files, not from {file}")
    try:
        found = decode(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidEvent(f"the settings in {file} can't be read: {error.strerror}") from None
    except RecursionError:
        raise InvalidEvent(f"the settings in {file} are nested too deeply") from None
    except ValueError as error:
        raise InvalidEvent(f"the settings in {file} can't be read: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise InvalidEvent(f"{file} must hold names and values at its top level")
    return found


def _yaml(text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidEvent(
            "YAML settings need pyyaml: pip install 'session-eventstore[settings]'"
        ) from None
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001 - a tag with a wrong value raises anything
        raise ValueError(" ".join(str(error).split())) from None


_DECODERS: dict[str, Callable[[str], Any]] = {
    ".toml": tomllib.loads,
    ".json": msgspec.json.decode,
    ".yaml": _yaml,
    ".yml": _yaml,
}


# -- what is allowed, in words ---------------------------------------------------------------


def _range(name: str) -> str:
    """Return what a setting may be, as a message says it."""
    return _words(_KINDS[name])


def _words(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(each) for each in get_args(kind))
    if get_origin(kind) is Annotated:
        plain, meta = get_args(kind)
        return _words(plain) + _bounds(meta)
    words: dict[Any, str] = {
        NoneType: "none",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    return words[kind]


def _bounds(meta: Meta) -> str:
    if meta.min_length is not None:
        return " that is not empty"
    low = f"above {meta.gt:,}" if meta.gt is not None else f"from {meta.ge:,}"
    return f" {low} to {meta.le:,}" if meta.gt is None else f" {low}, up to {meta.le:,}"
