"""Semantic: near-duplicate messages of a session, found by MinHash or by your own embedding.

Invariants: of messages that say the same, the newest stays and the older ones go; each that goes
names one that stays, by the same speaker, and how alike they are, measured exactly (Jaccard over
shingles, or the cosine), never estimated; the same session gives the same plan. Messages with
tool calls, results, or anything but text are never compared.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from operator import mul
from typing import Any, Protocol

import msgspec

from projections import Views

from ..errors import InvalidEvent, brief
from ..messages import Message
from ..state.transcript import Transcript
from ..store import EventStore
from .checks import check_whole
from .plans import Drop, Plan, Step, step_of
from .policies import Time, listed, open_to_policies, swept
from .units import Line, units_of

SHINGLE_CHARACTERS = 5
"""A text is the set of all runs of so many characters in it."""

COMPARED_CHARACTERS_MAX = 100_000
"""Longer messages are not compared."""

PERMUTATIONS = 128
"""Numbers of a MinHash, in bands; two texts are compared when one band agrees."""

RECALL_MIN = 0.999
"""Chance, at least, that texts just as alike as asked for (0.1 or more) are compared."""

SEED = 42

Embedding = Callable[[str], Sequence[float]]
"""Turns text into a vector, always of the same length."""


class Duplicates(msgspec.Struct, frozen=True, kw_only=True):
    """Messages go that a later one of the same speaker says again.

    `similarity` is from 0 to 1; `embed` compares by the cosine of vectors instead of by Jaccard
    over runs of characters. Texts of fewer than `characters_min` characters (yes, go on) are
    never duplicates, and only the newest `messages_max` of a session are looked at. Without
    `embed` it needs the extra `semantic`.
    """

    similarity: float = 0.85
    embed: Embedding | None = None
    characters_min: int = 20
    messages_max: int = 1_000

    def __post_init__(self) -> None:
        if type(self.similarity) not in (int, float) or not 0 < self.similarity <= 1:
            raise InvalidEvent(
                f"similarity must be a number above 0, up to 1, not {brief(self.similarity)}"
            )
        check_whole(self.characters_min, "characters_min")
        check_whole(self.messages_max, "messages_max")

    def plan(self, store: EventStore, views: Views, *, now: Time = None) -> Plan:
        """Return which messages would go."""
        rows = (row for row in listed(views) if row.messages > 1)
        return swept("Duplicates", self, store, rows, now)

    def step(self, store: EventStore, session: str, *, now: Time = None) -> Step | None:
        """Return what would go from one session, None where nothing would."""
        header = open_to_policies(store, session, now)
        if header is None:
            return None
        units = units_of(store.log, header)
        alone = {unit.lines[0].index: unit for unit in units if not unit.tools}
        transcript = Transcript(store.log, header.spans)
        first = max(len(transcript) - self.messages_max, 0)
        drops, kept = [], _Kept(self)
        for index, message in reversed([*enumerate(transcript[first:], first)]):
            unit = alone.get(index)
            text = _comparable(message) if unit is not None else None
            if unit is None or text is None or len(text) < self.characters_min:
                continue
            line = unit.lines[0]
            drop = kept.look(line, message, text, stays=bool(unit.stays))
            drops += [(line, drop)] if drop is not None else []
        why = "said again later"
        return step_of(session, header.version, why, drops[::-1]) if drops else None


class _Kept:
    """The messages that stay, newest first, one index a speaker."""

    def __init__(self, policy: Duplicates) -> None:
        self._policy = policy
        self._indexes: dict[tuple[str, str | None], Index] = {}
        self._ids: list[str] = []

    def look(self, line: Line, message: Message, text: str, *, stays: bool) -> Drop | None:
        """Return the drop of a message that one kept says again; keep it where there is none."""
        speaker = message.role, message.name
        index = self._indexes.get(speaker)
        if index is None:
            index = self._indexes[speaker] = self._index()
        found = index.nearest(text)
        if found is not None and found[1] >= self._policy.similarity and not stays:
            of, similarity = self._ids[found[0]], found[1]
            why = f"says what {of!r} says: {similarity:.2f} {index.measure}"
            return Drop(line.id, line.tokens, why, of, similarity)
        index.add(len(self._ids), text)
        self._ids.append(line.id)
        return None

    def _index(self) -> "Index":
        if self._policy.embed is not None:
            return Vectors(self._policy.embed)
        return Shingles(self._policy.similarity)


def _comparable(message: Message) -> str | None:
    """Return a message's text, evened out, or None where it is more than text or too long."""
    content = message.content
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(_is_text(part) for part in parts):
        return None
    text = evened(message.text) if len(message.text) <= COMPARED_CHARACTERS_MAX else None
    return text or None


def _is_text(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") == "text")


def evened(text: str) -> str:
    """Return text as it is compared: compatible letters the same, no case, words one space apart.

    Unicode's NFKC and case folding; whatever is no letter or digit only parts words.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", folded))


# -- how alike -------------------------------------------------------------------------------


class Index(Protocol):
    """Texts that were added, by number."""

    measure: str

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Return (number, similarity) of the most alike text, the first added among equals."""

    def add(self, number: int, text: str) -> None:
        """Add a text; numbers go up."""


class Shingles:
    """Texts by the runs of characters they share: MinHash finds candidates, sets decide."""

    measure = f"Jaccard over runs of {SHINGLE_CHARACTERS} characters"

    def __init__(self, similarity: float) -> None:
        self._rensa = _rensa()
        self._table = self._rensa.RMinHashLSH(similarity, PERMUTATIONS, bands(similarity))
        self._texts: dict[int, str] = {}

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Return the most alike of the texts that share a band."""
        own = shingles(text)
        found = sorted(self._table.query(self._sketch(own)))
        scored = [(number, jaccard(own, shingles(self._texts[number]))) for number in found]
        return max(scored, key=lambda each: each[1], default=None)

    def add(self, number: int, text: str) -> None:
        """Add a text."""
        self._table.insert(number, self._sketch(shingles(text)))
        self._texts[number] = text

    def _sketch(self, parts: set[str]) -> Any:
        sketch = self._rensa.RMinHash(PERMUTATIONS, SEED)
        sketch.update(sorted(parts))
        return sketch


class Vectors:
    """Texts by the direction of their vectors; each is compared with each."""

    measure = "cosine"

    def __init__(self, embed: Embedding) -> None:
        self._embed = embed
        self._vectors: list[tuple[int, list[float]]] = []
        self._latest: tuple[str, list[float]] | None = None

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Return the most alike text."""
        own = self._unit(text)
        scored = [(number, min(sum(map(mul, own, other)), 1.0)) for number, other in self._vectors]
        return max(scored, key=lambda each: each[1], default=None)

    def add(self, number: int, text: str) -> None:
        """Add a text."""
        self._vectors.append((number, self._unit(text)))

    def _unit(self, text: str) -> list[float]:
        """Return a text's vector at length 1; the one just looked for is not asked for again."""
        if self._latest is None or self._latest[0] != text:
            vector = [float(each) for each in self._embed(text)]
            size = math.hypot(*vector)
            known = len(self._vectors[0][1]) if self._vectors else len(vector)
            if not (0 < size < math.inf) or len(vector) != known:
                raise InvalidEvent(
                    f"embed gave a vector of {len(vector)} numbers and length {size}; it must be "
                    f"{known} numbers, finite and not all 0"
                )
            self._latest = text, [each / size for each in vector]
        return self._latest[1]


def shingles(text: str) -> set[str]:
    """Return all runs of SHINGLE_CHARACTERS characters; of a shorter text the text itself."""
    count = max(len(text) - SHINGLE_CHARACTERS + 1, 1)
    return {text[start : start + SHINGLE_CHARACTERS] for start in range(count)}


def jaccard(a: set[str], b: set[str]) -> float:
    """Return the share of the elements of either set that are in both, 0 to 1."""
    both = len(a & b)
    return both / (len(a) + len(b) - both)


def bands(similarity: float) -> int:
    """Return the fewest bands in which texts so alike agree in one with RECALL_MIN.

    With r numbers a band, a band agrees with the chance s^r (Leskovec et al., Mining of Massive
    Datasets, section 3.4).
    """
    powers = [1 << power for power in range(PERMUTATIONS.bit_length())]
    recalls = ((count, similarity ** (PERMUTATIONS // count)) for count in powers)
    return next(
        (count for count, agree in recalls if 1 - (1 - agree) ** count >= RECALL_MIN), PERMUTATIONS
    )


def _rensa() -> Any:
    try:
        import rensa  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidEvent(
            "near-duplicates need rensa: pip install 'session-eventstore[semantic]', or embed="
        ) from None
    return rensa
