"""The house itself: imports go down, the public surface is complete, every example runs."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import eventstore
import projections
from eventstore import limits

ROOT = Path(__file__).parents[1]
PACKAGES = ("eventstore", "projections")
DOORS = ("eventstore.interchange", "eventstore.cli", "eventstore.sessions")


# -- imports ---------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Return every module of both packages by its dotted name; a package by its own."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache  # parsed where it is asked for: each worker collects this file, one looks at a module
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(MODULES[module].read_text())


def is_type_checking(node: ast.AST) -> bool:
    """Return True for `if TYPE_CHECKING:`, whose imports never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk(node: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Iterate over (import statement, whether it stands in a function)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, inside
        elif not isinstance(child, ast.expr) and not is_type_checking(child):  # in none can one be
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
            yield from walk(child, inside=inside or function)


def targets(module: str, statement: ast.stmt) -> set[str]:
    """Return the modules of ours that an import statement loads."""
    if isinstance(statement, ast.Import):
        named = {alias.name for alias in statement.names}
    else:
        base = statement.module or ""
        if statement.level:
            is_package = MODULES[module].name == "__init__.py"
            parts = module.split(".")
            parts = parts[: len(parts) - statement.level + is_package]
            base = ".".join([*parts, base] if base else parts)
        inner = {f"{base}.{alias.name}" for alias in statement.names}
        named = {name if name in MODULES else base for name in inner}
    return {name for name in named if name in MODULES}


@cache
def statements() -> dict[str, list[tuple[ast.stmt, bool]]]:
    """Return (import statement, whether it stands in a function) of each module."""
    return {module: list(walk(tree(module))) for module in MODULES}


@cache
def imports() -> dict[str, set[str]]:
    """Return what each module imports of ours when it is loaded or run."""
    graph: dict[str, set[str]] = {}
    for module, found in statements().items():
        graph[module] = set().union(*(targets(module, each) for each, _ in found), set())
        graph[module].discard(module)
    return graph


def floors() -> dict[str, int]:
    """Return the floor of each name on the map that opens eventstore/__init__.py."""
    drawn = eventstore.__doc__.split("(imports only go down):")[1].split("Read docs")[0]
    drawn = re.sub(r"\n {5,}", " ", drawn)  # a floor may go on in the next line
    found: dict[str, int] = {}
    for floor, line in enumerate(re.findall(r"^ {4}(\S.*)$", drawn, re.MULTILINE)):
        label, names = re.split(r"\s{2,}", line, maxsplit=1)
        if label == "views":
            found["projections"] = floor
        else:
            found |= {f"eventstore.{name}": floor for name in names.split()}
    return found


FLOORS = floors()


def floor_of(module: str) -> int | None:
    """Return the floor of a module: its own, or that of the package that is on the map."""
    while module:
        if module in FLOORS:
            return FLOORS[module]
        module = module.rpartition(".")[0]
    return None


def test_every_module_is_on_the_map():
    """Each module, or the package it is in, has its floor on the map in eventstore/__init__.py."""
    outside = {"eventstore", *(name for name in MODULES if is_bare(name))}
    assert [name for name in MODULES if floor_of(name) is None and name not in outside] == []
    assert [name for name in FLOORS if name not in MODULES] == []


def is_bare(module: str) -> bool:
    """Return True for a package whose `__init__.py` only says what it is."""
    return MODULES[module].name == "__init__.py" and len(tree(module).body) <= 1


def test_imports_only_go_down():
    """No module imports from a floor above its own."""
    upward = [
        f"{module} imports {target}"
        for module, used in imports().items()
        for target in used
        if floor_of(module) is not None
        and floor_of(target) is not None
        and floor_of(target) > floor_of(module)
    ]
    assert upward == []


def test_facts_know_nothing_of_views():
    """Only the doors of eventstore import projections, and nothing else imports a door."""
    for module, used in imports().items():
        is_door = module.startswith(DOORS)
        for target in used:
            if module.startswith("eventstore") and target.startswith("projections"):
                assert is_door, f"{module} imports {target}"
            if target.startswith(DOORS):
                assert is_door, f"{module} imports the door {target}"


def test_no_import_goes_in_a_circle():
    """The modules can be put in an order in which each imports only those before it."""
    left = {module: used - {"eventstore", "projections"} for module, used in imports().items()}
    ready = True
    while ready:
        ready = {module for module, used in left.items() if not used & left.keys()}
        left = {module: used for module, used in left.items() if module not in ready}
    assert sorted(left) == []


def test_no_import_hides_in_a_function():
    """An import inside a function is for an optional extra only, never for one of ours."""
    hidden = [
        f"{module}:{statement.lineno}"
        for module, found in statements().items()
        for statement, inside in found
        if inside and targets(module, statement)
    ]
    assert hidden == []


# -- the public surface ----------------------------------------------------------------------


def test_all_is_sorted_and_complete():
    """`__all__` names everything public that eventstore holds, once, constants first, sorted."""
    names = eventstore.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name.islower(), name))
    public = {name for name in vars(eventstore) if not name.startswith("_")}
    inner = {name.split(".")[1] for name in MODULES if name.startswith("eventstore.")}
    assert set(names) == public - (inner - {"errors", "events"})


def test_projections_name_what_they_hold():
    """The views that api.md names are importable from `projections`."""
    for name in ("SessionState", "BranchTree", "Statistics", "Views", "Projection", "fold"):
        assert hasattr(projections, name)
    assert sorted(projections.__all__) == sorted(set(projections.__all__))
    assert {"diff", "blame"} <= set(projections.__all__)


KINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def public(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Iterate over the public functions and classes of a body, and over those in its classes."""
    for node in body:
        if isinstance(node, KINDS) and not node.name.startswith("_"):
            if not any("overload" in ast.unparse(each) for each in node.decorator_list):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is(module):
    """Every module opens with a docstring; so does every public class, method and function."""
    assert ast.get_docstring(tree(module))
    silent = [each.name for each in public(tree(module).body) if not ast.get_docstring(each)]
    assert silent == []


@pytest.mark.parametrize("command", ["create", "append", "merge", "prune", "record", "close"])
def test_async_commands_are_the_same_commands(command):
    """`store.aio` takes what the store takes: one definition serves both."""
    sync = getattr(eventstore.EventStore, command)
    other = inspect.unwrap(getattr(eventstore.store.AsyncStore, command))
    assert other is sync or command == "close"
    assert (
        list(inspect.signature(other).parameters)[:2]
        == list(inspect.signature(sync).parameters)[:2]
    )


def test_every_limit_is_documented():
    """Each limit of limits.py stands in docs/limits.md."""
    text = (ROOT / "docs" / "limits.md").read_text()
    names = [name for name in vars(limits) if name.isupper() and name not in ("KIB", "MIB", "GIB")]
    assert [name for name in names if name not in text] == []


# -- documents -------------------------------------------------------------------------------

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python[ \t]*(?P<info>[^\n]*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[tuple[int, str]]:
    """Return (line, code) of each Python example that is to run."""
    text = document.read_text()
    found = [each for each in FENCE.finditer(text) if "no-run" not in each["info"]]
    return [(text.count("\n", 0, each.start("code")), each["code"]) for each in found]


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: str(d.relative_to(ROOT))
)
def test_examples_run(document, tmp_path, monkeypatch):
    """The Python blocks of a document run in order, in one namespace and an empty directory."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(document):
        # Empty lines in front make a traceback name the line of the document.
        exec(compile("\n" * line + code, str(document), "exec"), namespace)
    for value in namespace.values():
        if isinstance(value, eventstore.EventStore):
            value.close()


def test_the_readme_has_an_example():
    """README.md shows a program of about 20 lines that runs."""
    assert 10 <= max(code.count("\n") for _, code in blocks(ROOT / "README.md")) <= 30


def test_links_lead_somewhere():
    """Every relative link in README.md and docs/ names a file that exists."""
    for document in DOCUMENTS:
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", prose):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
