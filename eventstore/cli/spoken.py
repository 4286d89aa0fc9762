"""What the library says, in the words of the command line: `--at-version` for `at_version=`.

Invariants: what a caller gave stands in quotes and stays as it is, and so does a text that names an
option of its own; a name that is typed nowhere stays too.
"""

import re
from typing import NamedTuple

_SPOKEN = re.compile(
    r"""(?<!\w)'[^']*'|(?<!\w)"[^"]*"  # what was given stays as it is
    | (?P<command>[a-z_]+)\(\)
    | (?<![\w./-])(?P<option>[a-z_]+)=(?:'(?P<value>\w+)')?
    | ^(?P<first>[a-z_]+)(?=\ must\ )
    | (?<![\w./-])(?P<name>[a-z]+_[a-z_]+)(?!\w|[./-]\w)""",
    re.VERBOSE,
)
"""Names of Python in what the library says: function(), option=, option='value', some_option, and
the option that a sentence begins with."""


class Typed(NamedTuple):
    """How options and commands are typed, by their names in Python."""

    options: dict[str | None, str]
    commands: dict[str, str]


def as_typed(text: str, typed: Typed) -> str:
    """Return what the library says with its functions and parameters as they are typed here."""

    def spoken(found: re.Match[str]) -> str:
        if found["command"]:
            return typed.commands.get(found["command"], found[0])
        option = typed.options.get(found["option"] or found["first"] or found["name"])
        if option is None:
            return found[0]
        return f"{option} {found['value']}" if found["value"] else option

    return text if "--" in text else _SPOKEN.sub(spoken, text)
