"""Blocks inside of LMDB: who is in one keeps the files open, and gets errors of ours.

Invariants: an environment knows each block from before it begins until it is over, so that it is
never closed under another thread: LMDB lets go of the GIL, and what it reads then would be
unmapped, which kills the process. One that an interrupt tore at its very end may stay known, which
costs whoever closes from another thread some patience.
"""

import struct
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING

import lmdb

from ..errors import Corruption

if TYPE_CHECKING:
    from .environment import Environment


class Inside:
    """A block in which a thread uses LMDB, whose errors leave it as ours."""

    __slots__ = ("_env",)

    def __init__(self, env: "Environment") -> None:
        self._env = env
        env.inside[id(self)] = get_ident()

    def __enter__(self) -> object:
        """Do nothing more: it is known already."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._translate(error)
        finally:
            self._leave()

    def _translate(self, error: BaseException) -> None:
        if isinstance(error, lmdb.Error):
            raise self._env.translated(error) from error
        if isinstance(error, struct.error):
            what = f"{self._env.path}: a row of the wrong size: {error}"
            raise Corruption(-1, what) from None

    def _leave(self) -> None:
        self._env.inside.pop(id(self), None)


class Reading(Inside):
    """The block of one transaction that reads.

    One that an interrupt leaves open pins its pages until the interrupt's traceback is gone.
    """

    __slots__ = ("_txn",)

    def __enter__(self) -> lmdb.Transaction:
        try:
            self._txn = self._env.begun(write=False)
        except BaseException:
            self._leave()
            raise
        return self._txn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._txn.abort()
        super().__exit__(kind, error, trace)
