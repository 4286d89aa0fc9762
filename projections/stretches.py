"""Stretches of a log, folded on their own: how all cores fold a large log together.

Invariants: only recipes that can join the states of stretches are shared, so that the state is the
one that a single process gives; where a stretch can't be folded elsewhere, for whatever reason, it
is folded here, and what is wrong is raised in the order of the log. Keys of an encrypted store are
handed to nobody.
"""

import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from eventstore import EventStore
from eventstore.audit.crew import answer_all, crew, workers_for

from .projection import Projection

State = TypeVar("State")

EVENTS_MIN = 500_000
"""A smaller log is folded by one process: most recipes take a second or less."""

STRETCH_EVENTS = 1 << 15
"""Events of a stretch: 30 ms of the quickest recipe, beside which handing it out costs little."""


class Task(msgspec.Struct, frozen=True, array_like=True):
    """To fold the events of positions `first..last`."""

    first: int
    last: int


def folded_log(
    store: EventStore, projection: Projection[State], last: int, workers: int | None
) -> State:
    """Return the projection's state after the log up to and with position `last`.

    `workers` processes share the work, by default as many as there are cores where that pays.
    """
    count = workers_for(last + 1, EVENTS_MIN, workers)
    if count == 1 or not _is_shared(store, projection):
        return projection.evolve_log(projection.initial(), store.log, 0, last)
    kind = type(projection)
    command = __name__, str(store.path), kind.__module__, kind.__qualname__
    tasks = list(_tasks(last))
    state = projection.initial()
    with crew(command, tasks, partial(_found, store, projection), bytes, count) as others:
        for index, task in enumerate(tasks):
            found = others.found(index) or _folded(store, projection, task)
            after = msgspec.msgpack.decode(found, type=projection.row_type)
            state = projection.join(state, after)
    return state


def _is_shared(store: EventStore, projection: Projection[Any]) -> bool:
    """Return True where a child can make the same recipe, and read the same facts."""
    kind = type(projection)
    findable = kind.__module__ != "__main__" and "." not in kind.__qualname__
    return store.path is not None and not store.encrypted and findable and projection.joins


def _tasks(last: int) -> Iterator[Task]:
    for first in range(0, last + 1, STRETCH_EVENTS):
        yield Task(first, min(first + STRETCH_EVENTS - 1, last))


def _folded(store: EventStore, projection: Projection[Any], task: Task) -> bytes:
    """Return the state after one stretch, as views keep it."""
    state = projection.evolve_log(projection.initial(), store.log, task.first, task.last)
    return msgspec.msgpack.encode(state)


def _found(store: EventStore, projection: Projection[Any], task: Task) -> bytes | None:
    """Return the same, None where it can't be had: why is for the one to say who needs it."""
    try:
        return _folded(store, projection, task)
    except Exception:  # noqa: BLE001 - a recipe is anybody's code
        return None


def _main(path: Path, module: str, name: str) -> None:
    kind: type[Projection[Any]] = getattr(import_module(module), name)
    with EventStore.open(path, read_only=True) as store:
        answer_all(Task, partial(_found, store, kind.on(store)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
