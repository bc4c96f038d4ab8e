"""Checks the dimension letters of array names while tests run: `x_BTD` has three axes,
and equal letters are equally long.

The letters of one call of a function belong together; an axis of length 1 broadcasts. The check is compiled into the
modules of a package as they are imported, so it sees arguments and local variables, and traced arrays too.
"""

import ast
import contextlib
import importlib.machinery
import re
import sys
from collections.abc import Iterator

NAME = re.compile(r"[a-z]\w*?_([A-Z]+)")


class LettersError(AssertionError):
    """An array whose shape its name does not allow."""


_checking = True


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Checks nothing inside, for tests of the code's own refusal of wrong shapes."""
    global _checking
    _checking = False
    try:
        yield
    finally:
        _checking = True


def check(sizes: dict[str, tuple[int, str]], name: str, value: object) -> None:
    """Checks one array, and notes the lengths of its axes in `sizes` of this call.

    Raises:
      LettersError: if the rank is not the number of letters, or a letter had another length in this call.
    """
    shape = getattr(value, "shape", None)
    if not _checking or not isinstance(shape, tuple):
        return
    letters = name.rpartition("_")[2]
    if len(shape) != len(letters):
        raise LettersError(f"{name} has {len(shape)} axes: {shape}")
    for letter, size in zip(letters, shape, strict=True):
        known, first = sizes.setdefault(letter, (size, name))
        if known == 1:
            sizes[letter] = (size, name)
        elif size not in (1, known):
            raise LettersError(f"{letter} of {name} is {size}, but {letter} of {first} is {known}")


class _Checked(ast.NodeTransformer):
    """Puts a check behind each assignment to a name with letters,
    and one of each argument at the start of a function."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._check_blocks(node)
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        start = [_statement("_letter_sizes = {}", node), *_checks([argument.arg for argument in arguments], node)]
        docstring = 1 if ast.get_docstring(node, clean=False) is not None else 0
        node.body[docstring:docstring] = start
        return node

    def _check_blocks(self, node: ast.AST) -> None:
        self.generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            if statements := getattr(node, block, None):
                setattr(node, block, [x for one in statements for x in (one, *_checks(_assigned(one), one))])

    def _block(self, node: ast.AST) -> ast.AST:
        self._check_blocks(node)
        return node

    visit_If = visit_With = visit_Try = _block

    def _loop(self, node: ast.For | ast.While) -> list[ast.stmt]:
        """Letters that are first seen in a loop belong to one round of it."""
        self._check_blocks(node)
        before = f"_letter_sizes_{node.lineno}"
        targets = _checks(_names(node.target), node) if isinstance(node, ast.For) else []
        node.body[:0] = [_statement(f"_letter_sizes = dict({before})", node), *targets]
        return [_statement(f"{before} = dict(_letter_sizes)", node), node]

    visit_For = visit_While = _loop

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = [
            self.visit(statement) if isinstance(statement, ast.FunctionDef) else statement for statement in node.body
        ]
        return node

    def visit_Module(self, node: ast.Module) -> ast.Module:
        functions = ast.FunctionDef | ast.ClassDef
        node.body = [
            self.visit(statement) if isinstance(statement, functions) else statement for statement in node.body
        ]
        return node


def _assigned(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.Assign):
        return [name for target in statement.targets for name in _names(target)]
    return _names(statement.target) if isinstance(statement, ast.AnnAssign | ast.AugAssign) else []


def _names(target: ast.expr) -> list[str]:
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _checks(names: list[str], where: ast.AST) -> list[ast.stmt]:
    letters = [name for name in names if NAME.fullmatch(name)]
    return [_statement(f"_check_letters(_letter_sizes, {name!r}, {name})", where) for name in letters]


def _statement(source: str, where: ast.AST) -> ast.stmt:
    """Source as a statement that stands, in tracebacks, where a node stands."""
    (statement,) = ast.parse(source).body
    for node in ast.walk(statement):
        ast.copy_location(node, where)
    return statement


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str):
        path = self.get_filename(fullname)
        tree = _Checked().visit(ast.parse(self.get_data(path), path))
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module) -> None:
        module.__dict__["_check_letters"] = check
        super().exec_module(module)


class _Finder(importlib.machinery.PathFinder):
    packages: tuple[str, ...] = ()

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in cls.packages:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec and spec.origin and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def install(*packages: str) -> None:
    """Checks the letters in packages that are imported from now on.

    Raises:
      ImportError: if one is imported already, since it would go unchecked.
    """
    if early := [name for name in sys.modules if name.partition(".")[0] in packages]:
        raise ImportError(f"{early[0]} is imported before its letters can be checked")
    _Finder.packages = packages
    sys.meta_path.insert(0, _Finder)
