"""Runner with a device for each part: emulated devices, GPUs, or devices of several hosts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from prism_jax.errors import InputError
from prism_jax.parallel import processes, transfer
from prism_jax.parallel.partition import PARTS, Parts, split
from prism_jax.parallel.runner import PartFunction, _run_part

DATA = "data"
"""Name of the optional mesh axis over which a batch is cut."""


@dataclass(frozen=True)
class OnMesh:
    """Gives every part its own device. Made by `on_mesh`."""

    mesh: jax.sharding.Mesh

    @property
    def num_parts(self) -> int:
        return self.mesh.shape[PARTS]

    def _specs(self) -> tuple[jax.P, jax.P]:
        """Returns the specs of arrays that are cut into parts, and of arrays that every part holds whole."""
        batch = DATA if DATA in self.mesh.axis_names else None
        return jax.P(batch, PARTS), jax.P(batch)

    def _shardings(self, parts: Parts) -> Parts:
        """Returns the sharding of each array of `parts`, in the same structure."""
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

    def split(self, batch: Mapping[str, Any], key: jax.Array | None = None) -> Parts:
        parts, data = split(batch, self.num_parts, key), self.mesh.shape.get(DATA, 1)
        if len(parts.real_BN) % data:
            raise InputError(
                f"a batch of {len(parts.real_BN)} does not cut into {data} on the data axis; "
                f"choose a multiple of {data}"
            )
        if not self._several:
            return jax.device_put(parts, self._shardings(parts))
        cut, whole = self._specs()
        tokens, real_BN = transfer.send(self.mesh, (parts.tokens, parts.real_BN), (cut, whole))
        keys_B = jax.tree.map(partial(transfer.placed, self.mesh, whole), parts.keys_B)
        return replace(parts, tokens=tokens, real_BN=real_BN, keys_B=keys_B)

    def shapes(self, params: Any, parts: Parts) -> tuple[Any, Parts]:
        def placed(tree: Any, shardings: Any) -> Any:
            return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)

        everywhere = jax.tree.map(lambda _: jax.NamedSharding(self.mesh, jax.P()), params)
        params, parts = jax.eval_shape(lambda *args: args, params, parts)
        return placed(params, everywhere), placed(parts, self._shardings(parts))

    @property
    def _several(self) -> bool:
        return self.mesh.devices.size > len(self.mesh.local_devices)

    @property
    def here(self) -> bool:
        return bool(self.mesh.local_devices)

    def replicate(self, tree: Any) -> Any:
        if not self._several:
            return jax.device_put(tree, jax.NamedSharding(self.mesh, jax.P()))
        return jax.tree.map(partial(transfer.replicated, self.mesh), tree)

    def broadcast(self, tree: Any) -> Any:
        return transfer.send(self.mesh, (tree,), (jax.P(),))[0] if self._several else tree

    def fetch(self, tree: Any) -> Any:
        return jax.device_get(transfer.everywhere(self.mesh)(tree) if self._several else tree)

    def __call__(self, function: PartFunction, params: Any, parts: Parts) -> jax.Array:
        return self.join(self.each(function, params, parts))

    def join(self, rows: jax.Array) -> jax.Array:
        """Returns rows [B, P*R, ...] that `each` left cut along axis 1, whole on every device. Inside jit."""
        with jax.named_scope("join"):
            return jax.sharding.reshard(rows, jax.NamedSharding(self.mesh, self._specs()[1]))

    def each(self, function: PartFunction, params: Any, parts: Parts) -> Any:
        one_part = partial(_run_part, function, parts.num_parts, parts.num_tokens)
        cut, whole = self._specs()
        run = jax.shard_map(one_part, mesh=self.mesh, in_specs=(jax.P(), cut, whole, whole), out_specs=cut)
        return run(params, parts.tokens, parts.real_BN, parts.keys_B)

    def one_by_one(self, function: Callable[[Any, Any], Any], params: Any, batch: Any) -> Any:
        def on_device(params: Any, batch: Any) -> Any:
            return jax.lax.map(partial(function, params), batch)

        whole = self._specs()[1]
        return jax.shard_map(on_device, mesh=self.mesh, in_specs=(jax.P(), whole), out_specs=whole)(params, batch)

    @property
    def _last(self) -> jax.Device:
        if self.mesh.shape.get(DATA, 1) > 1:
            raise InputError("the last part lies on several devices of the data axis; choose on_mesh(P) without one")
        return self.mesh.devices.flat[-1]

    @property
    def last_here(self) -> bool:
        if processes.several() and self.mesh.devices.size < jax.device_count():
            raise InputError(
                f"the last of {self.mesh.devices.size} parts must be heard by all processes, "
                f"which have {jax.device_count()} devices; choose as many parts"
            )
        return self._last in self.mesh.local_devices

    def from_last(self, x: np.ndarray) -> np.ndarray:
        return processes.from_process(self._last.process_index, x) if self._several else x

    def last_part(self, tree: Any) -> Any:
        return self.last_copy(tree)

    def last_copy(self, tree: Any) -> Any:
        last = self._last
        sharding = jax.sharding.SingleDeviceSharding(last)

        def local(x: jax.Array) -> jax.Array:
            return jax.device_put(next(shard.data for shard in x.addressable_shards if shard.device == last), sharding)

        return jax.tree.map(local, tree)


def on_mesh(num_parts: int, *, data: int = 1) -> OnMesh:
    """Returns a runner that gives each of `num_parts` parts its own device.

    Args:
      num_parts: P, the number of devices along the axis `parts`.
      data: number of devices along the axis `data`, which cuts the batch. 1, the default, leaves batches whole.

    Raises:
      InputError: if there are fewer devices than needed.
    """
    needed, devices = num_parts * data, jax.devices()
    if num_parts < 1 or data < 1:
        raise InputError(f"a mesh of {data} x {num_parts} devices asked for; choose 1 or more of each")
    if needed > len(devices):
        if processes.several():
            raise InputError(
                f"{needed} devices are needed ({num_parts} parts x {data}), but {jax.process_count()} processes have "
                f"{len(devices)}; ask for fewer parts, or start more processes"
            )
        raise InputError(
            f"{needed} devices are needed ({num_parts} parts x {data}), but there are {len(devices)} of kind "
            f"{devices[0].platform!r}; ask for fewer parts, use on_one_device, or emulate devices on the CPU: "
            f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={needed}, set before Python starts"
        )
    shape, names = ((num_parts,), (PARTS,)) if data == 1 else ((data, num_parts), (DATA, PARTS))
    return OnMesh(jax.make_mesh(shape, names, devices=devices[:needed]))


def emulate_devices(count: int) -> None:
    """Makes the CPU look like at least `count` devices. Call it before JAX does anything else.

    Leaves devices of another kind (GPUs) and runs of several processes unchanged.

    Raises:
      InputError: if JAX has already started with fewer devices.
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
