"""Devices: which there are, the axes that they form, and what lies where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from pfljax.types import Tree

_ALIGNMENT = 64  # bytes; JAX takes an aligned NumPy buffer on a CPU as it is
SHARDS_CONVOLUTIONS = jax.__version_info__ >= (0, 8)
"""Whether this JAX can differentiate convolutions in a mesh."""

Device: TypeAlias = Any
"""A `jax.Device`."""


class Axis(NamedTuple):
    """Devices that share something: an axis of a mesh."""

    mesh: Mesh
    name: str

    @property
    def size(self) -> int:
        """Into how many parts it is shared."""
        return self.mesh.shape[self.name]


def usable(devices: Sequence[Device]) -> Sequence[Device]:
    """Those of `devices` that can work together with this jax."""
    return devices if SHARDS_CONVOLUTIONS else devices[:1]


def _mesh(devices: Sequence[Device], **sizes: int) -> Mesh:
    if not SHARDS_CONVOLUTIONS:
        raise RuntimeError(f"jax {jax.__version__} cannot train on several devices: install jax>=0.8 or use one device")
    return Mesh(np.array(devices).reshape(*sizes.values()), tuple(sizes))


def clients(devices: Sequence[Device] | None) -> Axis | None:
    """Clients over `devices`, all of them if None; None where there is nothing to share.

    Raises:
      RuntimeError: if this jax cannot differentiate convolutions in a mesh.
    """
    if devices is None:
        devices = usable(jax.devices())
    return Axis(_mesh(devices, clients=len(devices)), "clients") if len(devices) > 1 else None


def grid(devices: Sequence[Device], points: int) -> tuple[Axis | None, Axis | None]:
    """Points over `devices`, and the clients of each over its part of them where there are more devices than points.

    Raises:
      RuntimeError: if this jax cannot differentiate convolutions in a mesh.
    """
    if len(devices) < 2:
        return None, None
    points = min(points, len(devices))
    share = len(devices) // points
    mesh = _mesh(devices[: points * share], points=points, clients=share)
    return Axis(mesh, "points"), Axis(mesh, "clients") if share > 1 else None


def placements(axis: Axis | None, devices: Sequence[Device] | None) -> tuple[Sharding, Sharding]:
    """Where arrays go: a copy on each device, and rows spread over the devices."""
    if axis is None:
        one = SingleDeviceSharding((jax.devices() if devices is None else devices)[0])
        return one, one
    return NamedSharding(axis.mesh, PartitionSpec()), NamedSharding(axis.mesh, PartitionSpec(axis.name))


def put(values: Tree, where: Sharding) -> Tree:
    """`values` on the devices of `where`; the devices of a CPU share one copy of what is on all of them."""

    def aligned(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        if leaf.ctypes.data % _ALIGNMENT == 0 and not leaf.flags.writeable:
            return leaf
        room = np.empty(leaf.nbytes + _ALIGNMENT, np.uint8)
        start = -room.ctypes.data % _ALIGNMENT
        copy = room[start : start + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
        copy[...] = leaf
        return copy

    shared = jax.default_backend() == "cpu" and where.is_fully_replicated
    return jax.device_put(jax.tree.map(aligned, values) if shared else values, where)
