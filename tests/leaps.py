"""Verify in several ways: by leaps over stretches, by the usual lane, with care alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventstore import EventStore
from eventstore.audit import stretches
from eventstore.audit import verify as verifying
from eventstore.audit.report import Report
from eventstore.audit.stretches import Task
from eventstore.audit.usual import UsualFrames
from eventstore.audit.verify import verify
from eventstore.audit.walk import Stretch
from eventstore.log.lmdb import LmdbLog


class Alone:
    """A crew whose children's work is done here, so that starting them costs a test nothing."""

    def __init__(self, log: LmdbLog, tasks: Sequence[Task]) -> None:
        self._log, self._tasks = log, tasks
        self.leapt = 0

    def found(self, index: int) -> Stretch | None:
        """Walk along a stretch."""
        found = stretches.walked(self._log, self._tasks[index])
        self.leapt += found is not None
        return found


def by_leaps(place: Path, monkeypatch: pytest.MonkeyPatch, **how: bool) -> tuple[Report, int]:
    """Return the report of a walk that leaps wherever it can, and the stretches offered to it."""
    crews: list[Alone] = []

    @contextmanager
    def crew_of_one(log: LmdbLog, tasks: Sequence[Task], _: int) -> Iterator[Alone]:
        crews.append(Alone(log, tasks))
        yield crews[-1]

    with monkeypatch.context() as patched:
        patched.setattr(verifying, "shared", crew_of_one)
        report = verified(place, **how)
    return report, crews[0].leapt


def verified(place: Path, *, workers: int = 1, deep: bool = True) -> Report:
    """Return what verify says about a directory whose structure is sound."""
    with EventStore.open(place, read_only=True) as store:
        return verify(store, deep=deep, workers=workers)


def carefully(place: Path, monkeypatch: pytest.MonkeyPatch, *, deep: bool) -> Report:
    """Return the report of a walk that takes no frame for a usual one."""
    with monkeypatch.context() as patched:
        patched.setattr(UsualFrames, "take", lambda _, __, at, ___: at)
        return verified(place, deep=deep)
