"""Blocks inside of LMDB: who is in one keeps the files open, and gets errors of ours.

Invariants: an environment knows each block from before it begins until it is over, so that it is
never closed under another thread: LMDB lets go of the GIL, and what it reads then would be
unmapped, which kills the process. None is left open by a generator between its values. A block that
an interrupt tore may be kept by its traceback, but its frame runs no more.
"""

import struct
import sys
from threading import get_ident
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

import lmdb

from ..errors import Corruption

if TYPE_CHECKING:
    from .environment import Environment

Insider = tuple[int, int]
"""Who is in a block: a thread, and the id of the frame that has the block."""


class Inside:
    """A block in which a thread uses LMDB, made by a method that the block's frame calls.

    It ends with the object, which is when the block is left, unless an error's traceback keeps it.
    """

    __slots__ = ("_env",)

    def __init__(self, env: "Environment") -> None:
        self._env = env
        env.inside[id(self)] = get_ident(), id(sys._getframe(2))  # noqa: SLF001 - there is no other way

    def __del__(self) -> None:
        """Forget the block."""
        self._env.inside.pop(id(self), None)

    def __enter__(self) -> object:
        """Do nothing more: it is known already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.__del__()


class Translating(Inside):
    """A block whose errors of LMDB leave it as ours."""

    __slots__ = ()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        try:
            if isinstance(error, lmdb.Error):
                raise self._env.translated(error) from error
            if isinstance(error, struct.error):
                what = f"{self._env.path}: a row of the wrong size: {error}"
                raise Corruption(-1, what) from None
        finally:
            self.__del__()


class Reading(Translating):
    """The block of one transaction that reads.

    One that an interrupt leaves open pins its pages until the interrupt's traceback is gone.
    """

    __slots__ = ("_txn",)

    def __enter__(self) -> lmdb.Transaction:
        try:
            self._txn = self._env.begun(write=False)
        except BaseException:
            self.__del__()
            raise
        return self._txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._txn.abort()
        if error is not None:
            super().__exit__(kind, error, trace)


def are_running(insiders: list[Insider]) -> bool:
    """Return True while one of these is running, in any thread but this."""
    frames = sys._current_frames()  # noqa: SLF001 - made for debuggers, and for this
    return any(
        thread != get_ident() and frame in _stack(frames.get(thread)) for thread, frame in insiders
    )


def _stack(frame: FrameType | None) -> set[int]:
    """Return the ids of the frames that have called a frame, and its own."""
    found = set[int]()
    while frame is not None:
        found.add(id(frame))
        frame = frame.f_back
    return found
