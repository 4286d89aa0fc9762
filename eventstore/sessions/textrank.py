"""TextRank: the sentences of a text that have most in common with the others.

Invariants: pure; sentences, stop words, stems and the graph are those of the package `summa` (the
extra `summaries`), and ranks are PageRank's on that graph; equal ranks go by their order. Only the
arithmetic is done here, on matrices rather than pair by pair, and each word is stemmed once: of
9 ms for 50 messages less than 2 are left. (It is also always right: summa takes whichever
eigenvector comes first, which is not the largest's in 3 of 100 conversations.)

Mihalcea and Tarau, 2004: the similarity of two sentences is the number of words they share over
the sum of the logarithms of their lengths. Ranks: Brin and Page, 1998.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Matrix = NDArray[float64]

DAMPING = 0.85
"""PageRank's: how much of a rank comes from the neighbours."""

RANK_DIGITS = 12
"""Where ranks are equal up to rounding, the order decides."""

STEMS_KEPT_MAX = 50_000
"""Words whose stem is remembered, 5 MB at most."""


class Sentence(NamedTuple):
    """A sentence as it was said, and the stems that it is compared by, at least one."""

    text: str
    stems: tuple[str, ...]


def textrank(text: str, words_max: int) -> str:
    """Return sentences of about so many words in all, a line each, in their order.

    "" where there are not two sentences to compare. Where none shares a word with another, all
    are alike.
    """
    sentences = _sentences(text)
    ranks = _ranks([each.stems for each in sentences])
    if not ranks:
        return ""
    best = sorted(range(len(sentences)), key=lambda at: -ranks.get(sentences[at].stems, 0.0))
    chosen = _about(words_max, best, [len(each.text.split()) for each in sentences])
    return "\n".join(sentences[at].text for at in sorted(chosen))


def _about(words_max: int, best: Sequence[int], lengths: Sequence[int]) -> list[int]:
    """Return the first of the best whose words in all come closest to so many."""
    chosen: list[int] = []
    left = words_max
    for at in best:
        if abs(left - lengths[at]) > abs(left):
            break
        chosen.append(at)
        left -= lengths[at]
    return chosen


def _ranks(bags: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Return the rank of each different bag of words; of one that is like no other, none."""
    import numpy as np  # noqa: PLC0415 - comes with the extra

    distinct = list(dict.fromkeys(bags))
    weights = _similarities(distinct)
    totals = weights.sum(axis=1)
    (linked,) = np.nonzero(totals)
    count = len(linked)
    if not count:
        return {}
    # A rank is what a walk over the links gives, (1 - d) / n + d * sum(w_ij / w_j * rank_j):
    # a system of n linear equations.
    flows = weights[np.ix_(linked, linked)] / totals[linked]
    ranks = np.linalg.solve(
        np.eye(count) - DAMPING * flows, np.full(count, (1 - DAMPING) / count)
    ).round(RANK_DIGITS)
    return {distinct[at]: float(rank) for at, rank in zip(linked, ranks, strict=True)}


def _similarities(bags: Sequence[tuple[str, ...]]) -> "Matrix":
    """Return how alike each two bags are; where none are, all are alike."""
    import numpy as np  # noqa: PLC0415 - comes with the extra

    places = {word: at for at, word in enumerate({word for bag in bags for word in bag})}
    present = np.zeros((len(bags), len(places)))
    for at, bag in enumerate(bags):
        present[at, [places[word] for word in bag]] = 1
    logs = np.log10([len(bag) for bag in bags]) if bags else np.zeros(0)
    sums = logs[:, None] + logs[None, :]
    common = present @ present.T
    np.fill_diagonal(common, 0)
    weights: Matrix = np.divide(common, sums, out=np.zeros_like(common), where=sums > 0)
    return weights if weights.any() else 1 - np.eye(len(bags))


def _sentences(text: str) -> list[Sentence]:
    """Return the sentences that have words left once stop words and numbers are gone."""
    from summa.preprocessing import textcleaner as clean  # noqa: PLC0415 - an extra

    stops, stem = _english()
    found = []
    for sentence in clean.split_sentences(text):
        words = clean.strip_punctuation(clean.strip_numeric(sentence.lower())).split()
        stems = " ".join([stem(word) for word in words if word not in stops]).split()
        if stems:
            found.append(Sentence(sentence, tuple(stems)))
    return found


@cache
def _english() -> tuple[frozenset[str], Callable[[str], str]]:
    """Return the stop words and the stemmer, which are made once."""
    from summa.preprocessing.snowball import SnowballStemmer  # noqa: PLC0415 - an extra
    from summa.preprocessing.stopwords import get_stopwords_by_language  # noqa: PLC0415

    stops = frozenset(get_stopwords_by_language("english").split())
    return stops, lru_cache(STEMS_KEPT_MAX)(SnowballStemmer("english").stem)
