"""Runner on a mesh whose collectives are under way while blocks compute.

Nothing computes on a CPU while a collective of the same program waits. So the function of a part is traced, and cut at
its collectives. Each stretch of equations between them becomes a program, which the main thread launches. All-gathers
go as `messages` on a mesh of all CPU processes of a run. Any other collective is a separate program, which a second
thread launches. They begin in the order of the function, which is the same on every process. A stretch waits for the
collectives that it reads, and for no others.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.extend import core

from prism_jax.errors import InputError
from prism_jax.parallel.cutting import Constant, Stretch, cut, shape_of
from prism_jax.parallel.mesh import OnMesh
from prism_jax.parallel.messages import messages
from prism_jax.parallel.partition import PARTS, Parts
from prism_jax.parallel.processes import wake_at_once
from prism_jax.parallel.runner import PartFunction, _run_part


def trace(run: OnMesh, function: PartFunction, params: Any, parts: Parts) -> tuple[core.ClosedJaxpr, Any]:
    """Returns the jaxpr of a function on the parts, of the leaves of its arguments, and the shapes of its results."""
    placed = _arguments(*run.shapes(params, parts))
    one_part = partial(_run_part, function, parts.num_parts, parts.num_tokens)
    specs = jax.tree.map(lambda x: x.sharding.spec, placed)
    whole = jax.shard_map(one_part, mesh=run.mesh, in_specs=specs, out_specs=run._specs()[0], check_vma=False)
    return jax.make_jaxpr(whole, return_shape=True)(*placed)


@dataclass(frozen=True)
class Gather:
    """An all-gather of the parts by messages.

    Attributes:
      mesh: its devices, one of each process.
      local: shape of the array of a part.
      gathered: shape and sharding of the result.
      axis: axis of the result along which the arrays stand.
    """

    mesh: jax.sharding.Mesh
    local: jax.ShapeDtypeStruct
    gathered: jax.ShapeDtypeStruct
    axis: int

    @property
    def bytes_sent(self) -> int:
        """Bytes that a device sends."""
        return (self.mesh.shape[PARTS] - 1) * self.local.size * self.local.dtype.itemsize

    def __call__(self, x: jax.Array) -> Callable[[], jax.Array]:
        """Begins the gather; returns a function that waits for its result."""
        own, (device,) = x.addressable_data(0), self.mesh.local_devices
        rows = np.moveaxis(self.mesh.devices, self.mesh.axis_names.index(PARTS), -1).reshape(-1, self.mesh.shape[PARTS])
        parts = next([other.process_index for other in row] for row in rows if device in row)
        arriving = messages().gather(parts, self.local, lambda: np.asarray(own).reshape(self.local.shape))

        def arrived() -> jax.Array:
            shape, sharding = self.gathered.shape, self.gathered.sharding
            piece = np.moveaxis(arriving.result(), 0, self.axis).reshape(sharding.shard_shape(shape))
            return jax.make_array_from_single_device_arrays(shape, sharding, [jax.device_put(piece, device)])

        return arrived


class Programs:
    """The compiled programs of a function of parts, for one shape of parameters and parts.

    Attributes:
      launches: stretches and collectives with their programs, in the order of their launch.
    """

    def __init__(self, run: OnMesh, function: PartFunction, params: Any, parts: Parts):
        closed, shapes = trace(run, function, params, parts)
        if by_messages(run.mesh):
            messages()  # processes connect by collectives too, so before the first one of the function is under way
        stretches, self._outputs = cut(closed)
        self._run, self._structure = run, jax.tree.structure(shapes)
        self._shapes: dict[int, jax.ShapeDtypeStruct] = dict(
            enumerate(jax.tree.leaves(_arguments(*run.shapes(params, parts))))
        )
        cut_along_tokens, of_each_device = (
            jax.NamedSharding(run.mesh, spec) for spec in (run._specs()[0], jax.P(run.mesh.axis_names))
        )
        for output, shape in zip(self._outputs, jax.tree.leaves(shapes), strict=True):
            self._shapes[output] = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=cut_along_tokens)
        self._stacked: set[int] = set()  # values with an axis of devices in front
        for step in (step for stretch in stretches for step in stretch.steps):
            for x, local in zip(step.writes, map(shape_of, step.eqn.outvars), strict=True):
                if x not in self._shapes:
                    stacked = (run.mesh.size, *local.shape)
                    self._shapes[x] = jax.ShapeDtypeStruct(stacked, local.dtype, sharding=of_each_device)
                    self._stacked.add(x)
        last = {x: i for i, stretch in enumerate(stretches) for x in stretch.reads if x not in self._outputs}
        self._last_reads = [[x for x in stretch.reads if last.get(x) == i] for i, stretch in enumerate(stretches)]
        made: dict[Hashable, jax.stages.Compiled | Gather] = {}
        self.launches: list[tuple[Stretch, jax.stages.Compiled | Gather]] = []
        for stretch in stretches:
            key = self._key(stretch)
            if key not in made:
                made[key] = self._gather(stretch) or self._compiled(stretch)
            self.launches.append((stretch, made[key]))

    def __call__(self, params: Any, parts: Parts) -> Any:
        values = dict(enumerate(jax.tree.leaves(_arguments(params, parts))))
        under_way: dict[int, Callable[[], jax.Array]] = {}
        for (stretch, program), last_read in zip(self.launches, self._last_reads, strict=True):
            for x in under_way.keys() & stretch.reads:
                values[x] = under_way.pop(x)()
            inputs = [values[x] for x in stretch.reads]
            for x in last_read:
                del values[x]
            if isinstance(program, Gather):
                under_way[stretch.writes[0]] = program(*inputs)
            elif stretch.is_collective:
                under_way[stretch.writes[0]] = self._begin(program, inputs)
            else:
                values |= zip(stretch.writes, program(*inputs), strict=True)
        values |= {x: arrived() for x, arrived in under_way.items()}
        return jax.tree.unflatten(self._structure, [values[x] for x in self._outputs])

    def _begin(self, program: jax.stages.Compiled, inputs: list[jax.Array]) -> Callable[[], jax.Array]:
        """Launches a collective on its thread; returns a function that waits for its result."""
        arriving = _collectives().submit(_when_ready, program, inputs)
        if not self._run._several:  # the threads of emulated devices might wait for each other
            arriving.result()
        return lambda: arriving.result()[0]

    def _gather(self, stretch: Stretch) -> Gather | None:
        """Returns a collective as messages, if it gathers all parts and can go so."""
        eqn = stretch.steps[0].eqn
        if eqn.primitive.name != "all_gather" or not by_messages(self._run.mesh):
            return None
        if eqn.params["axis_name"] != (PARTS,) or eqn.params["axis_index_groups"]:
            return None
        gathered = self._shapes[stretch.writes[0]]
        return Gather(self._run.mesh, shape_of(eqn.invars[0]), gathered, eqn.params["all_gather_dimension"])

    def _key(self, stretch: Stretch) -> Hashable:
        """Returns the same for stretches that differ in their values only, such as those of two blocks."""
        number = {x: i for i, x in enumerate(stretch.reads)}
        equations: list[Hashable] = []
        for step in stretch.steps:
            reads = [_bytes(x.value) if isinstance(x, Constant) else number[x] for x in step.reads]
            number |= {x: len(number) + i for i, x in enumerate(step.writes)}
            equations.append((step.eqn.primitive, tuple(sorted(step.eqn.params.items())), *reads))
        outside = [(number[x], x in self._stacked, self._shapes[x]) for x in (*stretch.reads, *stretch.writes)]
        shapes = tuple((i, stacked, x.shape, x.dtype, x.sharding) for i, stacked, x in outside)
        return tuple(equations), shapes

    def _compiled(self, stretch: Stretch) -> jax.stages.Compiled:
        """Compiles a stretch. Values between programs have an axis of devices in front."""

        def on_device(*inputs: jax.Array) -> tuple[jax.Array, ...]:
            known = {x: y[0] if x in self._stacked else y for x, y in zip(stretch.reads, inputs, strict=True)}
            with jax.named_scope("exchange" if stretch.is_collective else "stretch"):
                for step in stretch.steps:
                    reads = [x.value if isinstance(x, Constant) else known[x] for x in step.reads]
                    primitive = step.eqn.primitive
                    written = primitive.bind(*reads, **primitive.get_bind_params(step.eqn.params))
                    known |= zip(step.writes, written if primitive.multiple_results else [written], strict=True)
            return tuple(known[x][None] if x in self._stacked else known[x] for x in stretch.writes)

        shapes = [self._shapes[x] for x in stretch.reads]
        program = jax.shard_map(
            on_device,
            mesh=self._run.mesh,
            in_specs=tuple(x.sharding.spec for x in shapes),
            out_specs=tuple(self._shapes[x].sharding.spec for x in stretch.writes),
            check_vma=False,
        )
        return jax.jit(program).lower(*shapes).compile()


@dataclass(frozen=True)
class OverlappedOnMesh(OnMesh):
    """`OnMesh` for a single function, outside of jit. It gives values only."""

    made: dict[Hashable, Programs] = field(default_factory=dict, compare=False, repr=False)
    """The programs, by shapes."""

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        rows = self.each(function, params, parts)
        return _gather_of_rows(self, rows)(rows)() if by_messages(self.mesh) else _join(OnMesh(self.mesh))(rows)

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        leaves, structure = jax.tree.flatten((params, parts))
        if any(isinstance(x, jax.core.Tracer) for x in leaves):
            raise InputError("an overlapped program gives values only, outside of jit and grad; use forward there")
        shapes = structure, tuple((x.shape, x.dtype) for x in leaves)
        if shapes not in self.made:
            self.made[shapes] = Programs(self, function, params, parts)
        return self.made[shapes](params, parts)


def by_messages(mesh: jax.sharding.Mesh) -> bool:
    """Returns whether all-gathers on a mesh go as messages: it has a CPU of every process of a run of several."""
    several = mesh.devices.size == jax.process_count() > 1 == len(mesh.local_devices)
    return several and mesh.local_devices[0].platform == "cpu"


def _gather_of_rows(run: OnMesh, rows: jax.Array) -> Gather:
    """Returns the gather that joins rows [B, P*R, ...] that are cut along axis 1."""
    cut_along_tokens, whole = (jax.NamedSharding(run.mesh, spec) for spec in run._specs())
    local = jax.ShapeDtypeStruct(cut_along_tokens.shard_shape(rows.shape), rows.dtype)
    return Gather(run.mesh, local, jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=whole), 1)


@cache
def _join(run: OnMesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(run.join)


@cache
def _collectives() -> ThreadPoolExecutor:
    """Returns the thread that launches the collectives that are programs."""
    return ThreadPoolExecutor(1, "collectives", wake_at_once)


def _when_ready(program: jax.stages.Compiled, inputs: list[jax.Array]) -> Any:
    """Launches a collective when its inputs are there. Then JAX runs it on this thread, which alone waits for it."""
    return program(*jax.block_until_ready(inputs))


def _arguments(params: Any, parts: Parts) -> tuple[Any, ...]:
    return params, parts.tokens, parts.real_BN, parts.keys_B


def _bytes(value: Any) -> Hashable:
    x = np.asarray(value)
    return x.dtype, x.shape, x.tobytes()
