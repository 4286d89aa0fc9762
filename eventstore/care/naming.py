"""What the references of a damaged log stand for, and which of these names nothing proves.

Invariants: a name that a tree leads to counts, and that of a first frame that is a fact; any other
is taken only where all that any page says of its number is the same, and is then named as
unproven: a commit that never was may have given the number to somebody else.
"""

from collections.abc import Iterable
from contextlib import suppress

from ..log.codec import Codec
from ..log.format import ACTOR_NAME, SESSION_NAME
from ..log.frame import Frame
from .salvage import Salvage, Survey, references_in


class Naming:
    """Gives frames their names.

    `unnamed` is what those are called whose names are lost, `unproven` are names that nothing
    proves; of both what frames were given.
    """

    def __init__(self, salvage: Salvage, survey: Survey, codec: Codec) -> None:
        self._salvage, self._used = salvage, dict(survey.used)
        self._shown = codec.names.shown
        self._rows = salvage.references() | salvage.actors() | survey.names
        self._first: dict[int, bytes] = {}
        """What first frames say that are taken though no tree leads to them."""
        self._guessed: dict[int, bytes] = {}
        self._proven: set[int] = set(self._rows)
        self.unnamed: set[str] = set()
        self.unproven: set[str] = set()

    def allowed(self, loose: Iterable[Frame]) -> list[Frame]:
        """Return loose frames without first ones of sessions that their numbers don't stand for."""
        return [
            each
            for each in loose
            if each.version or self._rows.get(each.session_ref, _own(each)) == _own(each)
        ]

    def look(self, loose: Iterable[Frame]) -> None:
        """Look everywhere for names that are missing; first frames among the loose say some too."""
        firsts: dict[int, set[bytes]] = {}
        for frame in loose:
            self._used |= references_in(frame)
            if not frame.version:
                firsts.setdefault(frame.session_ref, set()).add(_own(frame))
        missing = self._used.keys() - self._rows.keys()
        for ref, names in self._salvage.loose_names(missing).items():
            said = names | firsts.get(ref, set())
            fitting = [each for each in said if each.startswith(self._used[ref])]
            if len(fitting) == 1:
                self._guessed[ref] = fitting[0]

    def settle(self, taken: Iterable[Frame], unproven: set[int]) -> None:
        """Believe the first frames among those that are taken, some of which nothing proves."""
        firsts = [each for each in taken if not each.version]
        self._first = {each.session_ref: _own(each) for each in firsts}
        proven = {each.session_ref for each in firsts if each.position not in unproven}
        self._proven = self._rows.keys() | proven

    def knows(self, frame: Frame) -> bool:
        """Give a frame names to be tried; return False where one of them is lost."""
        own = None if frame.version else _own(frame)
        session = self._told(SESSION_NAME, frame.session_ref, own)
        actor = self._told(ACTOR_NAME, frame.actor_ref) if frame.actor_ref else None
        frame.session, frame.actor = session or "", actor
        return session is not None and (actor is not None or not frame.actor_ref)

    def give(self, frame: Frame) -> None:
        """Give a frame its names for good, or ones that say what is lost."""
        frame.session = self._given(SESSION_NAME, frame.session_ref)
        frame.actor = self._given(ACTOR_NAME, frame.actor_ref) if frame.actor_ref else None

    def _given(self, kind: bytes, ref: int) -> str:
        name = self._told(kind, ref)
        if name is None:
            name = f"lost name {ref}"
            self.unnamed.add(name)
        elif ref not in self._proven:
            self.unproven.add(name)
        return name

    def _told(self, kind: bytes, ref: int, own: bytes | None = None) -> str | None:
        """Return the name behind a reference, None where it is lost."""
        row = own or self._rows.get(ref) or self._first.get(ref) or self._guessed.get(ref)
        with suppress(ValueError):
            if row and row.startswith(kind):
                return self._shown(kind, row[1:])
        return None


def _own(frame: Frame) -> bytes:
    """Return the name that a session's first frame has, as a row of references has it."""
    return SESSION_NAME + frame.kept_session
