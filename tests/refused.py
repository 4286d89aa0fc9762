"""Commits that fail for real: what they leave on free pages of the log's file was never a fact."""

# ruff: noqa: ASYNC110 - nobody sets an event when a call is queued

import asyncio
import random
import resource
import struct
from base64 import b85encode
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore import Corruption, EventStore, StoreFull
from eventstore.audit.pages import FILE, LEAF, PageFile, page_kind
from eventstore.log.codec import Codec
from eventstore.log.format import POSITION
from eventstore.log.frame import Frame
from eventstore.place.directory import LOG

NEVER = "never acknowledged"
"""What each of these messages says, and is called."""


@contextmanager
def no_more_room(place: Path, pages: int) -> Iterator[None]:
    """Let the log use no more than some pages behind those in use; writes behind that fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PageFile(place / LOG / FILE) as file:
        limit = file.metas()[0].used_bytes + pages * file.page_bytes
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refuse(store: EventStore, calls: Sequence, pages: int) -> None:
    """Make calls at the same time, as (name of a coroutine of the store, arguments, options).

    All that are queued while another has the lead share one commit, which finds no room.
    """

    async def crowd() -> list:
        writer = store.engine.writer
        with writer.exclusive():
            made = (getattr(store.aio, name)(*given, **more) for name, given, more in calls)
            tasks = [asyncio.ensure_future(each) for each in made]
            while len(writer._queue) + sum(task.done() for task in tasks) < len(tasks):
                await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with no_more_room(store.path, pages):
        outcomes = asyncio.run(crowd())
    kinds = Counter(type(each).__name__ for each in outcomes)
    assert kinds[StoreFull.__name__] * 2 > len(outcomes), kinds


def lines(session: str, count: int, width: int = 2_500, **more) -> list:
    """Return the calls that append messages of a width one by one, too random to be packed."""
    return [
        (
            "append",
            (session, {"role": "user", "content": f"{NEVER} {number} " + noise(width)}),
            more,
        )
        for number in range(count)
    ]


def left_over(file: Path, codec: Codec, facts: Iterable[Frame]) -> list[Frame]:
    """Return the frames in a file that no commit made facts, nor what facts once were."""
    known = {each.position: (each.version, each.session_ref, each.recorded_at) for each in facts}
    found = []
    with PageFile(file) as pages:
        leaves = [page for n in range(pages.pages) if page_kind(page := pages.page(n)) == LEAF]
        for _, key, raw in (node for page in leaves for node in pages.nodes(page)):
            with suppress(Corruption, struct.error):
                frame = Frame(raw or b"", POSITION.unpack(key)[0], codec)
                same = (frame.version, frame.session_ref, frame.recorded_at)
                found += [] if known.get(frame.position) == same else [frame]
    return found


def noise(width: int) -> str:
    """Return text that no compression makes much shorter."""
    return b85encode(random.Random(width).randbytes(width * 4 // 5)).decode()
