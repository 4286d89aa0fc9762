"""Traces: where words still stand in files, in whatever form."""

import base64
import json
from pathlib import Path


def forms(word: str) -> dict[str, bytes]:
    """Return the word in every form that a search of bytes must know."""
    found = {name: word.encode(name) for name in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")}
    found["latin-1"] = word.encode("latin-1")
    found["json"] = json.dumps(word)[1:-1].encode()
    found["hex"] = word.encode().hex().encode()
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + word.encode() + bytes(3))
        first, last = -(-8 * shift // 6), 8 * (shift + len(word.encode())) // 6
        found[f"base64 behind {shift}"] = whole[first:last]
    return {name: raw.lower() for name, raw in found.items()}


def found_in(content: bytes, *words: str) -> list[str]:
    """Return which words stand in these bytes, and in which form."""
    lower = content.lower()
    return [
        f"{word}: {name}" for word in words for name, raw in forms(word).items() if raw in lower
    ]


def bytes_of(*places: Path) -> bytes:
    """Return names and bytes of all files below these places."""
    files = [each for place in places for each in sorted(place.rglob("*")) if each.is_file()]
    assert files
    return b"\0".join(str(each).encode() + b"\0" + each.read_bytes() for each in files)
