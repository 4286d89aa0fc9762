"""Recipes of folds, in a file that loads no test tools: each child that folds along loads it."""

from typing import Any, ClassVar

from projections import Projection


class Places(Projection[list[list[Any]]]):
    """Keeps the places of all it is shown, in order."""

    name: ClassVar[str] = "places"

    def initial(self):
        return []

    def evolve(self, state, recorded):
        return [*state, [recorded.session, recorded.version, recorded.type]]

    def join(self, before, after):
        return before + after


class Decoded(Places):
    """The same, having looked at every event."""

    name: ClassVar[str] = "decoded"
    about_erased: ClassVar[bool] = True

    def evolve(self, state, recorded):
        _ = recorded.structure
        return super().evolve(state, recorded)


class Apart(Projection[int]):
    """Counts facts, and can't say what two counts are together."""

    name: ClassVar[str] = "apart"

    def initial(self):
        return 0

    def evolve(self, state, recorded):  # noqa: ARG002 - all count alike
        return state + 1


class Since(Places):
    """Takes an argument that another process would not know of."""

    def __init__(self, position: int) -> None:
        self.position = position
