"""Imports go one way: from a package to those on floors below it. docs/architecture.md draws the floors."""

import ast
from graphlib import TopologicalSorter

from helpers.paths import ROOT

FLOORS = """
errors trees seeds records user_paths folders progress
parallel assets metrics
exchange
layers
forward sampling models programs
cost data
weights generation testing
tasks
experiments
cli
links launching generating scoring
reporting
sweeping timing planning
blocks environment evaluate generate latency launch paper plan report scale speed sweep wires
"""
FLOOR = {name: floor for floor, names in enumerate(FLOORS.strip().splitlines()) for name in names.split()}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("prism_jax", "eval", "train")
    for path in (ROOT / package).glob("**/*.py")
}


def imports(module: str) -> set[str]:
    """Our modules that a module imports when it runs, at any place."""
    tree = ast.parse(MODULES[module].read_text())
    only_types = {
        id(x)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for x in ast.walk(node)
    }
    results = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            results |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in only_types:
            full = {f"{node.module}.{name.name}" for name in node.names}
            results |= {name if name in MODULES else str(node.module) for name in full}
    return {name for name in results if name in MODULES and name != module}


IMPORTS = {module: imports(module) for module in MODULES}


def package(module: str) -> str:
    return [*module.split("."), ""][1]


def test_no_file_is_longer_than_300_lines():
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: n for module, n in lines.items() if n > 300} == {}


def test_no_import_goes_up():
    arrows = [
        (a, b) for a, names in IMPORTS.items() for b in names if package(a) and package(b) not in ("", package(a))
    ]
    assert len(arrows) > 300
    up = [(a, b) for a, b in arrows if not a.startswith("train") and FLOOR[package(a)] < FLOOR[package(b)]]
    assert up == []


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter(IMPORTS).static_order())


def test_packages_import_no_circle():
    arrows = {(package(a), package(b)) for a, names in IMPORTS.items() for b in names if package(a) and package(b)}
    circle = TopologicalSorter[str]()
    for a, b in arrows:
        if a != b:
            circle.add(a, b)
    list(circle.static_order())


def test_the_library_imports_no_command_and_train_and_eval_not_each_other():
    tops = {(a.split(".")[0], b.split(".")[0]) for a, names in IMPORTS.items() for b in names}
    assert tops == {
        ("prism_jax", "prism_jax"),
        ("eval", "eval"),
        ("eval", "prism_jax"),
        ("train", "train"),
        ("train", "prism_jax"),
    }
