"""Trajectories of tau-bench: the trials of one task become branches of one session.

    [{"task_id": 0, "trial": 0, "reward": 1.0, "info": {"task": {...}}, "traj": [message, ...]}]

Invariants: a trial's visible messages equal its `traj`, key for key; messages that it shares
with an earlier trial of its task are stored once: it branches off the one it shares most with,
after the last message they share.
"""

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec

from projections import SessionState

from ..errors import DepthExceeded, InvalidEvent, brief
from ..events import BranchCreated, Event, MetadataUpdated, SessionCreated
from ..ids import check_name
from ..messages import Json, check_json
from ..patch import patched
from ..store import EventStore
from .chat import checked_messages
from .intake import Imported, Progress, Whole, take_in
from .sources import decoded, read_document

SOURCE = "tau-bench"

_NO_NAME = {"tau", "bench", "conversations", "trajectories", "historical"}
"""Words of a file's name that say nothing about what is in it."""


class Trajectory(msgspec.Struct, frozen=True):
    """One trial of one task, as the benchmark writes it."""

    task_id: int | str
    traj: list[Any]
    trial: int | None = None
    reward: Any = None
    info: dict[str, Any] | None = None


class _Trial(msgspec.Struct, frozen=True):
    """A trial that has its place: its own messages, from `shared` on, start at version `first`."""

    session: str
    metadata: dict[str, Json]
    messages: list[dict[str, Json]]
    shared: int = 0
    first: int = 1
    depth: int = 0

    def version_after(self, count: int) -> int:
        """Return the version of this stream at which `count` messages were visible."""
        return self.first + count - 1 - self.shared


_decoder = msgspec.json.Decoder(list[Trajectory])


def import_tau(
    store: EventStore,
    path: Path,
    *,
    name: str | None = None,
    progress: Progress | None = None,
    actor: str | None = None,
) -> Imported:
    """Import a file of trajectories: a session for each task, a branch for each further trial.

    They are called `<name>-task-<id>` and `<name>-task-<id>-trial-<trial>`; `name` is by default
    the file's, without words such as "tau". Raises InvalidEvent and SessionExists, both before
    anything is written.
    """
    stem, depth_max = name or stem_of(path), store.engine.max_depth
    return take_in(store, lambda: _wholes(path, stem, depth_max), progress, actor)


def mismatches(store: EventStore, path: Path, *, name: str | None = None) -> list[str]:
    """Return the sessions of an imported file whose messages or reward are not those in it."""
    wrong = []
    for trajectory, session in _named(path, name or stem_of(path)):
        state = SessionState.of(store, session)
        messages = [message.to_dict() for message in state.messages]
        if not (_same(messages, trajectory.traj) and state.metadata == _metadata(trajectory)):
            wrong.append(session)
    return wrong


def stem_of(path: Path) -> str:
    """Return what a file's name says besides that it holds tau-bench conversations."""
    words = path.stem.replace("_", "-").split("-")
    return "-".join(word for word in words if word not in _NO_NAME) or path.stem


def _named(path: Path, stem: str) -> Iterator[tuple[Trajectory, str]]:
    """Iterate over the trajectories with the names of their sessions."""
    trials: dict[int | str, int] = {}
    for each in decoded(read_document(path), path.name, _decoder):
        session = f"{stem}-task-{each.task_id}"
        count = trials.get(each.task_id, 0)
        if count:
            session += f"-trial-{count if each.trial is None else each.trial}"
        trials[each.task_id] = count + 1
        yield each, session


def _wholes(path: Path, stem: str, depth_max: int) -> Iterator[Whole]:
    tasks: dict[int | str, list[_Trial]] = {}
    for trajectory, session in _named(path, stem):
        where = f"{path.name} task {brief(trajectory.task_id)} trial {trajectory.trial}"
        check_name(session, f"{where}: session id")
        checked_messages(trajectory.traj, where)
        metadata = _metadata(trajectory)
        check_json(metadata, where)
        earlier = tasks.setdefault(trajectory.task_id, [])
        trial = _Trial(session, metadata, trajectory.traj)
        opening: list[Event] = [SessionCreated(metadata=metadata)]
        if earlier:
            trial, opening = _branched(trial, earlier, depth_max)
        earlier.append(trial)
        own = trial.messages[trial.shared :]
        yield Whole(session, opening, own, [])
    if not tasks:
        raise InvalidEvent(f"{path.name} holds no trajectory")


def _metadata(trajectory: Trajectory) -> dict[str, Json]:
    task = (trajectory.info or {}).get("task")
    metadata = {
        "source": SOURCE,
        "task_id": trajectory.task_id,
        "trial": trajectory.trial,
        "reward": trajectory.reward,
        "instruction": task.get("instruction") if isinstance(task, dict) else None,
    }
    found: dict[str, Json] = patched({}, metadata)
    return found


def _branched(trial: _Trial, earlier: list[_Trial], depth_max: int) -> tuple[_Trial, list[Event]]:
    """Return the trial at its place on the earlier one it shares most with, and what opens it."""
    parents = [each for each in earlier if each.depth < depth_max]
    if not parents:
        raise DepthExceeded(1, depth_max)
    parent = max(parents, key=lambda each: _shared(each, trial))
    shared = _shared(parent, trial)
    opening: list[Event] = [BranchCreated(parent.session, parent.version_after(shared))]
    patch = {**dict.fromkeys(parent.metadata), **trial.metadata}
    opening.append(MetadataUpdated(patch))
    placed = msgspec.structs.replace(
        trial, shared=shared, first=len(opening), depth=parent.depth + 1
    )
    return placed, opening


def _shared(one: _Trial, other: _Trial) -> int:
    """Return how many first messages two trials have in common."""
    pairs = zip(one.messages, other.messages, strict=False)
    return sum(1 for _ in takewhile(lambda pair: _same(*pair), pairs))


def _same(one: Json, other: Json) -> bool:
    """Return True for values whose stored bytes are the same: 1 is not 1.0, and order counts."""
    return msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
