"""Old payloads become newer ones on read, one pure step per schema number.

Invariants: stored bytes never change; a step maps the plain payload of schema n to that of
n + 1 and knows nothing else. Format 1 starts every type at schema 1, so there is no step yet:
the first change of a type adds `STEPS[type, 1]` and raises its number in SCHEMAS.
"""

from collections.abc import Callable, Mapping
from typing import Any

Payload = dict[str, Any]
Step = Callable[[Payload], Payload]

SCHEMAS: dict[str, int] = {}
"""Event type -> the schema number written today, where it is not 1."""

STEPS: dict[tuple[str, int], Step] = {}
"""(event type, schema n) -> the step from n to n + 1."""


def schema_of(name: str, schemas: Mapping[str, int] = SCHEMAS) -> int:
    """Return the schema number that events of this type are written with."""
    return schemas.get(name, 1)


def upcast(
    name: str,
    schema: int,
    payload: Payload,
    steps: Mapping[tuple[str, int], Step] = STEPS,
    schemas: Mapping[str, int] = SCHEMAS,
) -> Payload:
    """Return `payload`, written with number `schema`, as today's schema has it."""
    for number in range(schema, schema_of(name, schemas)):
        payload = steps[name, number](payload)
    return payload
