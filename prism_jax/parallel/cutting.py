"""Cuts the function of a part at its collectives, into programs that can run while rows are under way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from prism_jax.errors import InputError

CALLS = {
    *("shard_map", "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"),
    *("checkpoint", "remat", "remat2"),
}
"""Primitives that call one jaxpr. Where nothing is differentiated, they mean its equations."""


@dataclass(frozen=True)
class Constant:
    """A value that the function itself holds."""

    value: Any


Atom = int | Constant
"""An input of an equation: the number of a value, or a constant. The arguments have the first numbers."""


@dataclass(frozen=True, eq=False)
class Step:
    """An equation on one part.

    Attributes:
      eqn: its primitive and parameters.
      reads: its inputs.
      writes: numbers of its outputs.
    """

    eqn: core.JaxprEqn
    reads: tuple[Atom, ...]
    writes: tuple[int, ...]

    @property
    def inputs(self) -> set[int]:
        """Numbers of the values that it reads."""
        return {x for x in self.reads if isinstance(x, int)}


@dataclass(frozen=True)
class Stretch:
    """Steps that are one program, or a single collective.

    Attributes:
      steps: the steps, in the order of the function.
      reads: numbers of the values from outside, ascending.
      writes: numbers of the values that others read, ascending.
    """

    steps: tuple[Step, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    @property
    def is_collective(self) -> bool:
        return _is_collective(self.steps[0].eqn)

    @property
    def products(self) -> int:
        """Number of matrix products."""
        return _products(self.steps)


class _Flat:
    """The equations of a jaxpr, with those of the functions that it calls in place of the calls."""

    def __init__(self, closed: core.ClosedJaxpr):
        self.count = len(closed.jaxpr.invars)
        self.steps: list[Step] = []
        self.concatenated: dict[int, Step] = {}  # by value
        self.outputs = self.inline(closed, range(self.count))

    def inline(self, closed: core.ClosedJaxpr, arguments: Sequence[Atom]) -> list[Atom]:
        """Adds the equations of a jaxpr; returns its outputs."""
        jaxpr = closed.jaxpr
        known: dict[core.Var, Atom] = dict(zip(jaxpr.constvars, map(Constant, closed.consts), strict=True))
        known |= dict(zip(jaxpr.invars, arguments, strict=True))

        def atom(x: core.Var | core.Literal) -> Atom:
            return Constant(x.val) if isinstance(x, core.Literal) else known[x]

        for eqn in jaxpr.eqns:
            known |= dict(zip(eqn.outvars, self.add(eqn, tuple(map(atom, eqn.invars))), strict=True))
        return list(map(atom, jaxpr.outvars))

    def add(self, eqn: core.JaxprEqn, reads: tuple[Atom, ...]) -> Sequence[Atom]:
        """Adds an equation; returns its outputs."""
        name, params = eqn.primitive.name, eqn.params
        if name in CALLS:
            called = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            return self.inline(called if isinstance(called, core.ClosedJaxpr) else core.ClosedJaxpr(called, ()), reads)
        if any(map(_has_collective, core.jaxprs_in_params(params))):
            raise InputError(f"a collective inside a {name} can't be overlapped; use forward, or unroll it")
        step = Step(eqn, reads, tuple(range(self.count, self.count + len(eqn.outvars))))
        self.steps.append(step)
        self.count += len(step.writes)
        if name == "concatenate":
            self.concatenated[step.writes[0]] = step
        if name != "split":
            return step.writes
        starts = np.cumsum([0, *params["sizes"]])[:-1].tolist()
        shapes = [shape_of(x).shape for x in eqn.outvars]
        pieces = [self.piece(reads[0], params["axis"], *at) for at in zip(starts, shapes, strict=True)]
        return [x if piece is None else piece for x, piece in zip(step.writes, pieces, strict=True)]

    def piece(self, x: Atom, axis: int, start: int, shape: tuple[int, ...]) -> Atom | None:
        """Returns the value that a concatenation put at `start`, if it has this shape. Own rows in front of rows that
        are under way then need not wait for them."""
        step = self.concatenated.get(x) if isinstance(x, int) else None
        if step is None or step.eqn.params["dimension"] != axis:
            return None
        for operand, its_shape in zip(step.reads, (shape_of(x).shape for x in step.eqn.invars), strict=True):
            if start == 0 and its_shape == shape:
                return operand
            if start < its_shape[axis]:
                return self.piece(operand, axis, start, shape)
            start -= its_shape[axis]
        return None


def cut(closed: core.ClosedJaxpr) -> tuple[list[Stretch], list[int]]:
    """Returns the stretches and collectives of a function in the order of their launch, and the numbers of its outputs.

    In front of each collective stand the steps that its input needs, and no others. Those among them that need not wait
    for a collective come before those that need it. They are a separate stretch if they hold a matrix product. What
    no output needs is left out.

    Raises:
      InputError: if a collective stands inside a loop or a branch.
    """
    flat = _Flat(closed)
    outputs = [x for x in flat.outputs if isinstance(x, int)]
    results = set(outputs)
    steps = _needed(flat.steps, results)
    collectives = [step for step in steps if _is_collective(step.eqn)]
    latest: dict[int, int] = {}  # by value, the last collective that it depends on
    for step in steps:
        before = max((latest.get(x, -1) for x in step.inputs), default=-1)
        latest |= dict.fromkeys(step.writes, collectives.index(step) if step in collectives else before)
    groups: list[list[Step]] = []
    left, waited = [step for step in steps if step not in collectives], -1
    for collective in (*collectives, None):
        group = _needed(left, collective.inputs if collective else results)
        left = [step for step in left if step not in group]
        after = {step: max(waited, latest[step.writes[0]]) for step in group}  # the last one to wait for
        stretch: list[Step] = []
        for collective_waited in sorted(set(after.values())):
            stretch = [*stretch, *(step for step in group if after[step] == collective_waited)]
            if _products(stretch):
                groups, stretch = [*groups, stretch], []
        groups += [one for one in (stretch, [collective] if collective else []) if one]
        waited = max(waited, *after.values()) if after else waited
    stretches = []
    for i, group in enumerate(groups):
        written = {x for step in group for x in step.writes}
        read = {x for step in group for x in step.inputs} - written
        later = results.union(*(step.inputs for other in groups[i + 1 :] for step in other))
        stretches.append(Stretch(tuple(group), tuple(sorted(read)), tuple(sorted(written & later))))
    return stretches, outputs


def shape_of(x: core.Var | core.Literal) -> jax.ShapeDtypeStruct:
    """Returns shape and type of a value on one part."""
    return jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype)  # type: ignore[attr-defined]


def _needed(steps: Sequence[Step], values: set[int]) -> list[Step]:
    """Returns the steps that values depend on, in order."""
    values, needed = set(values), []
    for step in reversed(steps):
        if values.intersection(step.writes):
            values |= step.inputs
            needed.append(step)
    return needed[::-1]


def _products(steps: Sequence[Step]) -> int:
    return sum(step.eqn.primitive.name == "dot_general" for step in steps)


def _is_collective(eqn: core.JaxprEqn) -> bool:
    names = eqn.params.get("axis_name", eqn.params.get("axes", ()))
    names = names if isinstance(names, tuple) else (names,)
    return eqn.primitive.name != "axis_index" and any(isinstance(name, str) for name in names)


def _has_collective(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> bool:
    eqns = jaxpr.jaxpr.eqns if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr.eqns
    return any(_is_collective(eqn) or any(map(_has_collective, core.jaxprs_in_params(eqn.params))) for eqn in eqns)
