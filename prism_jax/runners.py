"""Run a function on every part.

Two runners, one contract. `on_mesh` gives every part a device of its own (`jax.shard_map`); `on_one_device` keeps
all parts inside one device (`jax.vmap`). The function sees the same arguments and the same collectives in both.

The devices of a mesh may belong to several processes, see `processes`. Then every process makes the same calls; a batch
is the terminal's, and what the others give in its place matters by its shapes alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from prism_jax import processes, sending
from prism_jax.errors import InputError
from prism_jax.partition import PARTS, Layout, Parts, split

DATA = "data"
"""Name of the optional mesh axis over which a batch is cut."""

PartFunction = Callable[[Any, dict[str, jax.Array], Layout], Any]
"""`(params, tokens of one part [B, T, ...], layout) -> rows_BRD`, or a tree of arrays with the batch in front."""


class Runner(Protocol):
    """Runs a function on every part and joins the rows that the parts return."""

    @property
    def num_parts(self) -> int: ...

    def split(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Parts:
        """As `split`, with every array where this runner needs it."""

    def shapes(self, params: Any, parts: Parts) -> tuple[Any, Parts]:
        """Shapes and shardings of `(params, parts)`, to lower a program without weights."""

    @property
    def here(self) -> bool:
        """Whether this process has one of the devices. Where not, nothing below can be called but on other processes."""

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of `tree` (the weights) on every device. Every process has its own, of the same values."""

    def broadcast(self, tree: Any) -> Any:
        """Puts a copy of the terminal's `tree` of numpy arrays on every device."""

    def fetch(self, tree: Any) -> Any:
        """The values of a result, as numpy arrays, on every process that is `here`."""

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        """Runs `function` on every part; returns the joined rows [B, P*R, ...], in the order of the parts."""

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        """As a call, but every part keeps what it returns: arrays [B, P*R, ...] cut along axis 1, for `last_part`."""

    def one_by_one(self, function: Callable[[Any, Any], Any], params: Any, batch: Any) -> Any:
        """`function(params, example)` of each example of a joined batch, stacked; what it computes is held for one at a time."""

    @property
    def last_here(self) -> bool:
        """Whether this process has the last part's device. Where not, the next two can't be called."""

    def last_part(self, tree: Any) -> Any:
        """What the last part returned, on its device, of what `each` gave. Outside of jit."""

    def last_copy(self, tree: Any) -> Any:
        """The last device's copy of what `replicate` gave. Outside of jit."""

    def from_last(self, x: np.ndarray) -> np.ndarray:
        """The array that the process with the last part's device has, on every process; theirs matter by their shape alone."""


def _run_part(function, num_parts, num_tokens, params, tokens, real_BN, keys_B):
    """The body of both runners: one part, inside an axis named PARTS."""
    part = jax.lax.axis_index(PARTS)
    if keys_B is not None:
        keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, part)
    return function(params, tokens, Layout(part, real_BN, keys_B, num_parts, num_tokens))


@dataclass(frozen=True)
class OnOneDevice:
    """All parts inside one device. Made by `on_one_device`."""

    num_parts: int

    here = last_here = True

    def split(self, batch, key=None):
        return split(batch, self.num_parts, key)

    def shapes(self, params, parts):
        return jax.eval_shape(lambda *args: args, params, parts)

    def replicate(self, tree):
        return jax.tree.map(jnp.asarray, tree)

    def broadcast(self, tree):
        return tree

    def fetch(self, tree):
        return jax.device_get(tree)

    def __call__(self, function, params, parts):
        return self.each(function, params, parts)

    def each(self, function, params, parts):
        def cut(x):
            return x.reshape(x.shape[0], self.num_parts, -1, *x.shape[2:])

        real_BN = jnp.asarray(parts.real_BN)  # NumPy's, outside of jit

        def one_part(tokens):
            return _run_part(function, parts.num_parts, parts.num_tokens, params, tokens, real_BN, parts.keys_B)

        run = jax.vmap(one_part, in_axes=1, out_axes=1, axis_name=PARTS, axis_size=self.num_parts)
        stacked = run(jax.tree.map(cut, parts.tokens))
        return jax.tree.map(lambda x: x.reshape(x.shape[0], -1, *x.shape[3:]), stacked)

    def one_by_one(self, function, params, batch):
        return jax.lax.map(partial(function, params), batch)

    def last_part(self, tree):
        return jax.tree.map(lambda x: x[:, -(x.shape[1] // self.num_parts) :], tree)

    def last_copy(self, tree):
        return tree

    def from_last(self, x):
        return x


@dataclass(frozen=True)
class OnMesh:
    """Every part on its own device. Made by `on_mesh`."""

    mesh: jax.sharding.Mesh

    @property
    def num_parts(self) -> int:
        return self.mesh.shape[PARTS]

    def _specs(self) -> tuple[jax.P, jax.P]:
        """How arrays lie that are cut into parts, and arrays that every part knows whole."""
        batch = DATA if DATA in self.mesh.axis_names else None
        return jax.P(batch, PARTS), jax.P(batch)

    def _shardings(self, parts: Parts) -> Parts:
        """How each array of `parts` lies, in the same structure."""
        cut: Any
        whole: Any
        cut, whole = (jax.NamedSharding(self.mesh, spec) for spec in self._specs())
        return Parts(
            jax.tree.map(lambda _: cut, parts.tokens),
            whole,
            None if parts.keys_B is None else whole,
            parts.num_tokens,
            parts.num_parts,
        )

    def split(self, batch, key=None):
        parts, data = split(batch, self.num_parts, key), self.mesh.shape.get(DATA, 1)
        if len(parts.real_BN) % data:
            raise InputError(
                f"a batch of {len(parts.real_BN)} does not cut into {data} on the data axis; choose a multiple of {data}"
            )
        if not self._several:
            return jax.device_put(parts, self._shardings(parts))
        cut, whole = self._specs()
        tokens, real_BN = sending.send(self.mesh, (parts.tokens, parts.real_BN), (cut, whole))
        keys_B = jax.tree.map(partial(sending.placed, self.mesh, whole), parts.keys_B)
        return replace(parts, tokens=tokens, real_BN=real_BN, keys_B=keys_B)

    def shapes(self, params, parts):
        def placed(tree, shardings):
            return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)

        everywhere = jax.tree.map(lambda _: jax.NamedSharding(self.mesh, jax.P()), params)
        params, parts = jax.eval_shape(lambda *args: args, params, parts)
        return placed(params, everywhere), placed(parts, self._shardings(parts))

    @property
    def _several(self) -> bool:
        return self.mesh.devices.size > len(self.mesh.local_devices)

    @property
    def here(self):
        return bool(self.mesh.local_devices)

    def replicate(self, tree):
        if not self._several:
            return jax.device_put(tree, jax.NamedSharding(self.mesh, jax.P()))
        return jax.tree.map(partial(sending.replicated, self.mesh), tree)

    def broadcast(self, tree):
        return sending.send(self.mesh, (tree,), (jax.P(),))[0] if self._several else tree

    def fetch(self, tree):
        return jax.device_get(sending.everywhere(self.mesh)(tree) if self._several else tree)

    def __call__(self, function, params, parts):
        rows_BRD = self.each(function, params, parts)
        with jax.named_scope("join"):
            return jax.sharding.reshard(rows_BRD, jax.NamedSharding(self.mesh, self._specs()[1]))

    def each(self, function, params, parts):
        one_part = partial(_run_part, function, parts.num_parts, parts.num_tokens)
        cut, whole = self._specs()
        run = jax.shard_map(one_part, mesh=self.mesh, in_specs=(jax.P(), cut, whole, whole), out_specs=cut)
        return run(params, parts.tokens, parts.real_BN, parts.keys_B)

    def one_by_one(self, function, params, batch):
        def mine(params, batch):
            return jax.lax.map(partial(function, params), batch)

        whole = self._specs()[1]
        return jax.shard_map(mine, mesh=self.mesh, in_specs=(jax.P(), whole), out_specs=whole)(params, batch)

    @property
    def _last(self) -> jax.Device:
        if self.mesh.shape.get(DATA, 1) > 1:
            raise InputError("the last part lies on several devices of the data axis; choose on_mesh(P) without one")
        return self.mesh.devices.flat[-1]

    @property
    def last_here(self):
        if processes.several() and self.mesh.devices.size < jax.device_count():
            raise InputError(
                f"the last of {self.mesh.devices.size} parts must be heard by all processes, which have {jax.device_count()} devices; "
                "choose as many parts"
            )
        return self._last in self.mesh.local_devices

    def from_last(self, x):
        return processes.from_process(self._last.process_index, x) if self._several else x

    def last_part(self, tree):
        return self.last_copy(tree)

    def last_copy(self, tree):
        last = self._last
        alone = jax.sharding.SingleDeviceSharding(last)

        def local(x):
            return jax.device_put(next(shard.data for shard in x.addressable_shards if shard.device == last), alone)

        return jax.tree.map(local, tree)


def on_one_device(num_parts: int) -> OnOneDevice:
    """A runner that keeps `num_parts` parts inside one device: for fine-tuning and accuracy, no mesh needed."""
    if num_parts < 1:
        raise InputError(f"num_parts is {num_parts}; choose 1 or more")
    return OnOneDevice(num_parts)


def on_mesh(num_parts: int, *, data: int = 1) -> OnMesh:
    """A runner that gives each of `num_parts` parts its own device.

    Args:
      num_parts: P, devices along the axis `parts`.
      data: devices along the axis `data`, which cuts the batch.

    Raises:
      InputError: if there are fewer devices than needed.
    """
    needed, here = num_parts * data, jax.devices()
    if num_parts < 1 or data < 1:
        raise InputError(f"a mesh of {data} x {num_parts} devices asked for; choose 1 or more of each")
    if needed > len(here):
        if processes.several():
            raise InputError(
                f"{needed} devices are needed ({num_parts} parts x {data}), but {jax.process_count()} processes have "
                f"{len(here)}; ask for fewer parts, or start more processes"
            )
        raise InputError(
            f"{needed} devices are needed ({num_parts} parts x {data}), but there are {len(here)} of kind "
            f"{here[0].platform!r}; ask for fewer parts, use on_one_device, or emulate devices on the CPU: "
            f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={needed}, set before Python starts"
        )
    shape, names = ((num_parts,), (PARTS,)) if data == 1 else ((data, num_parts), (DATA, PARTS))
    return OnMesh(jax.make_mesh(shape, names, devices=here[:needed]))


def emulate_devices(count: int) -> None:
    """Makes the CPU look like at least `count` devices. Call it before JAX does anything else.

    Devices of another kind (GPUs) are left as they are, and so are those of several processes.

    Raises:
      InputError: if JAX has started already, with fewer.
    """
    if processes.several() or jax.config.jax_num_cpu_devices >= count:  # type: ignore[attr-defined]
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if jax.default_backend() != "cpu" or len(jax.devices()) >= count:
            return
        raise InputError(
            f"{count} devices are needed, but JAX has started already; emulate them before it does anything else, "
            f"or set JAX_NUM_CPU_DEVICES={count} before Python starts"
        ) from error
