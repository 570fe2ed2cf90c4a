"""A module imports lower floors, or its own without a cycle. Programs outside the package use its public names."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pfljax"

FLOORS = [
    ["types", "checks", "printing", "files", "tree", "masks"],
    ["data", "models"],
    ["learning"],
    ["federation"],
    ["algorithms", "results"],
    ["engine"],
    ["experiment"],
    ["benchmark", "reproduce", "quadratics", "cli", "__init__", "__main__"],
]
"""The rooms, and the language that they are written in, from the ground up."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}

# What stays closed to a folder although it lies on a lower floor.
CLOSED = {"algorithms": {"data", "models"}}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _top(module: str) -> str:
    return module.split(".")[1]


def _imports(module: str, path: Path) -> set[str]:
    """Modules of the package that `path` imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import in line {node.lineno}: write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {_nearest(name) for name in names if name.split(".")[0] == "pfljax"}
    return found - {module}


def _nearest(name: str) -> str:
    """The module that holds `name`, which may be a name in it."""
    if name == "pfljax":
        return "pfljax.__init__"
    return name if name in MODULES else _nearest(name.rpartition(".")[0])


IMPORTS = {module: _imports(module, path) for module, path in MODULES.items()}


def test_package_stands_alone() -> None:
    """Programs, configurations and tests are not there where only the package is installed."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            outside = [name for name in names if name.split(".")[0] in ("experiments", "configs", "tests")]
            assert not outside, f"{path.relative_to(ROOT)} imports {outside}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_do_not_climb(module: str) -> None:
    """Floor of the imported <= floor of the importer, as the list above has it."""
    assert _top(module) in FLOOR, (
        f"{module} has no floor: say in tests/habits/test_floors.py which modules may import it"
    )
    for imported in IMPORTS[module]:
        assert FLOOR[_top(imported)] <= FLOOR[_top(module)], (
            f"{module} (floor {FLOOR[_top(module)]}) imports {imported} (floor {FLOOR[_top(imported)]}): "
            "move what they share to a lower floor"
        )
        assert _top(imported) not in CLOSED.get(_top(module), ()), (
            f"{module} imports {imported}: take it as an argument"
        )


def test_imports_have_no_cycle() -> None:
    """Modules of one floor may import each other, but not in a circle."""
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


def test_methods_stand_alone() -> None:
    """An algorithm never imports another; only the table knows them all."""
    table = "pfljax.algorithms"
    methods = {module for module in MODULES if module.startswith(f"{table}.")}
    for method in methods:
        others = IMPORTS[method] & (methods | {table})
        assert not others, f"{method} imports {sorted(others)}: move what they share to skeletons.py or losses.py"


@pytest.mark.parametrize("folder", ["experiments", "configs"])
def test_programs_use_public_names(folder: str) -> None:
    """What a program needs is public: no leading underscore is imported from the package."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pfljax":
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{path.relative_to(ROOT)} imports {private} from {node.module}: make it public"
