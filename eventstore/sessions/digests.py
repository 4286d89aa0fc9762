"""Digests: summaries that need no model, and the cut that makes any text fit its tokens.

Invariants: pure; a digest of messages is never empty and takes a bounded time, whatever the
messages' length; what is quoted is quoted as it was said.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from ..messages import Message, TokenCounter
from .textrank import textrank

RANKED_CHARACTERS_MAX = 3_000
"""Characters that TextRank compares, evenly taken from the messages: about 2 ms."""

LINE_CHARACTERS_MAX = 160
"""How much of a message a digest quotes."""

CHARACTERS_A_TOKEN, CHARACTERS_A_WORD = 4, 6
"""About; the last cut is made with the store's own counter."""


def extract(messages: Sequence[Message], tokens_max: int, count: TokenCounter) -> str:
    """Return a summary of at most so many tokens: by TextRank with the extra, else a digest."""
    characters = tokens_max * CHARACTERS_A_TOKEN
    text = ranked(messages, characters) if find_spec("summa") else ""
    return clipped(text or digest(messages, characters), tokens_max, count)


def digest(messages: Sequence[Message], characters_max: int) -> str:
    """Return the first and the last lines of a conversation, each shortened, as many as fit."""
    said = [f"{each.role or 'message'}: {each.text}" for each in messages if each.text]
    lines = [_line(each, LINE_CHARACTERS_MAX) for each in said]
    if not lines:
        return f"({len(messages)} messages without text)"
    taken, room = 0, characters_max
    for line in _from_both_ends(lines):
        room -= len(line) + 1
        if room < 0 and taken:
            break
        taken += 1
    if taken == len(lines):
        return "\n".join(lines)
    first, last = (taken + 1) // 2, taken // 2
    return "\n".join([*lines[:first], "…", *lines[len(lines) - last :]])


def ranked(messages: Sequence[Message], characters_max: int) -> str:
    """Return the sentences that say most of the others, in order, or "" where none does."""
    texts = [each.text for each in messages if each.text]
    share = RANKED_CHARACTERS_MAX // max(len(texts), 1)
    text = "\n".join(_line(text, share) for text in texts)
    return textrank(text, max(characters_max // CHARACTERS_A_WORD, 1))


def clipped(text: str, tokens_max: int, count: TokenCounter) -> str:
    """Return the text, shortened where it has more than `tokens_max` tokens."""
    shown, kept = text, len(text)
    while kept and (tokens := count({"content": shown})) > tokens_max:
        kept = min(kept - 1, kept * tokens_max // tokens)
        shown = text[:kept].rstrip() + "…"
    return shown


def _from_both_ends(lines: Sequence[str]) -> list[str]:
    """Return the first, the last, the second, the last but one, and so on."""
    half = (len(lines) + 1) // 2
    firsts, lasts = lines[:half], lines[: half - 1 : -1] if half < len(lines) else []
    mixed = [line for pair in zip(firsts, lasts, strict=False) for line in pair]
    return mixed + list(firsts[len(lasts) :])


def _line(text: str, width: int) -> str:
    """Return the text in one line of at most so many characters; reads no more than it needs."""
    flat = " ".join(text.split(None, width + 1)[: width + 1])
    return flat if len(flat) <= width else flat[: max(width - 1, 0)].rstrip() + "…"
