"""SessionManager: what applications call, over one store.

Invariants: all of it is reading (questions.py), writing (changes.py) and care (care.py), each a
sentence over the store's commands and the views; any number of threads, tasks and processes may
call at once; `manager.aio` runs the very same methods; closing stops what runs in the background.
"""

import os
from typing import Any, Self, Unpack, overload

import msgspec

from ..engine.requests import Options
from ..errors import InvalidEvent, brief
from ..files import checked_path
from ..keyring import Keyring
from ..log.base import Receipt
from ..messages import TokenCounter
from ..store import EventStore
from .aio import AsyncSessionManager
from .care import Care
from .semantic import Embedding
from .settings import Settings
from .summaries import Summarizer
from .tokens import token_counter


class SessionManager(Care):
    """Sessions over one store; `manager.aio` has the same methods as coroutines.

    `settings` are those of the environment where none are given (Settings.load()). `summarizer`
    writes summaries of messages, `embed` turns text into vectors for strategy "semantic"; both
    have defaults that need no model. Raises InvalidEvent for what is no store, or no settings.
    """

    def __init__(
        self,
        store: EventStore,
        settings: Settings | None = None,
        *,
        summarizer: Summarizer | None = None,
        embed: Embedding | None = None,
    ) -> None:
        if not isinstance(store, EventStore):
            raise InvalidEvent(
                f"a manager takes an open EventStore, not {brief(store)}; "
                "SessionManager.open(path) opens one itself"
            )
        chosen = Settings.load() if settings is None else _checked(settings)
        super().__init__(store, chosen, summarizer, embed)
        self.aio = AsyncSessionManager(self, self.close)
        self._owns_store = False

    def __repr__(self) -> str:
        return f"<SessionManager of {self.store!r}>"

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        *,
        summarizer: Summarizer | None = None,
        embed: Embedding | None = None,
        count_tokens: TokenCounter | None = None,
        **overrides: Any,
    ) -> Self:
        """Open a store and manage its sessions; close() closes both.

        `overrides` are settings by name; without `settings` the environment's count too.
        `count_tokens` counts instead of the settings' `tokens`. Raises InvalidEvent for wrong
        settings and what EventStore.open raises.
        """
        if path is not None:
            overrides["path"] = str(checked_path(path, "path"))
        if settings is None:
            chosen = Settings.load(**overrides)
        else:
            given = _checked(settings)
            chosen = Settings.load(environ={}, **(msgspec.structs.asdict(given) | overrides))
        store = _opened(chosen, token_counter(count_tokens or chosen.tokens))
        made = cls(store, chosen, summarizer=summarizer, embed=embed)
        made._owns_store = True
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @overload
    def close(self) -> None: ...
    @overload
    def close(
        self, session: str, *, reason: str | None = None, **options: Unpack[Options]
    ) -> Receipt: ...
    def close(
        self,
        session: str | None = None,
        *,
        reason: str | None = None,
        **options: Unpack[Options],
    ) -> Receipt | None:
        """Close a session, as a fact; without one, stop the workers and release the manager.

        The store is closed too where the manager opened it. Idempotent.
        """
        if session is not None:
            return self.close_session(session, reason=reason, **options)
        self.stop()
        self.aio.release()
        self.cache.close()
        self.views.close()
        if self._owns_store:
            self.store.close()
        return None


def _checked(settings: object) -> Settings:
    if not isinstance(settings, Settings):
        raise InvalidEvent(f"settings are made by Settings(...), not {brief(settings)}")
    return settings


def _opened(chosen: Settings, count_tokens: TokenCounter) -> EventStore:
    """Open the store that settings name."""
    if chosen.backend == "memory":
        if chosen.keyring:
            raise InvalidEvent("a store in memory takes no keyring; choose the backend 'lmdb'")
        return EventStore.in_memory(max_depth=chosen.max_depth, count_tokens=count_tokens)
    return EventStore.open(
        chosen.path,
        durability=chosen.durability,
        compression=chosen.compression,
        keyring=Keyring.file(chosen.keyring) if chosen.keyring else None,
        max_depth=chosen.max_depth,
        count_tokens=count_tokens,
    )
