"""JSON merge patches (RFC 7396): apply one, make one, and join two sides against a base.

Invariants: pure; the arguments are never changed, what is returned may share parts with them.
"""

from collections.abc import Mapping

import msgspec

from .messages import Json

_ABSENT = object()
_text = msgspec.json.Encoder(order="sorted").encode


def patched(target: Json, patch: Json) -> Json:
    """Return `target` with the patch applied; null removes a key (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = patched(made.get(key), value) if isinstance(value, dict) else value
    return made


def assigned(values: Mapping[str, Json], change: Mapping[str, Json]) -> dict[str, Json]:
    """Return values with whole keys replaced, or removed where the change says None."""
    merged = {**values, **change}
    return {key: value for key, value in merged.items() if value is not None or key not in change}


def changes(base: Mapping[str, Json], now: Mapping[str, Json]) -> dict[str, Json]:
    """Return the keys whose value differs; a removed key maps to None."""
    keys = [*now, *(key for key in base if key not in now)]
    return {
        key: now.get(key)
        for key in keys
        if not _same(base.get(key, _ABSENT), now.get(key, _ABSENT))
    }


def conflicts(ours: Mapping[str, Json], theirs: Mapping[str, Json]) -> list[str]:
    """Return the keys, sorted, that both sides changed to different values."""
    return sorted(key for key in ours if key in theirs and not _same(ours[key], theirs[key]))


def _same(one: Json, other: Json) -> bool:
    """Return True for the same JSON; to Python 1, 1.0 and True are equal, here they are three."""
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return _text(one) == _text(other)
