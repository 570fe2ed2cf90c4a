"""Examples dealt to clients: packed arrays, and for each client the rows that are its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.data.dataset import Dataset, count_classes, labels
from pfljax.data.partition import Partitioner, apportion
from pfljax.printing import brief
from pfljax.types import Array, ClientData, Examples, Tree

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

_PARTITION, _UNSEEN, _SPLIT, _MIRROR = range(4)


class Rows(NamedTuple):
    """For each client, where its neighbouring rows begin and how many there are."""

    start: Any  # [N + U] int32
    size: Any  # [N + U] int32


def _static() -> Any:
    return field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FederatedData:
    """All examples of a population, packed: first the training rows of clients 0, 1, ..., then validation, then test.

    Clients 0..N-1 train; clients N..N+U-1 are unseen, they only onboard and are evaluated. A pytree: the arrays are
    its leaves, all else is static.
    """

    examples: Examples  # [T, ...] leaves in their storage dtype
    train: Rows
    validation: Rows
    test: Rows
    num_clients: int = _static()  # N
    num_unseen: int = _static()  # U
    num_classes: int | None = _static()  # C, None for regression
    name: str = _static()
    fingerprint: str = _static()  # 16 hex digits of the bytes of all examples and of who holds them
    capacity: int = _static()  # training examples of the largest client

    def client(self, id: Array | int, split: Split = "train") -> ClientData:
        """The view of client `id` ([], may be traced). An id of N + U or more holds nothing."""
        rows, id = self._rows(split), jnp.asarray(id)
        return ClientData(
            jax.tree.map(jnp.asarray, self.examples),
            jnp.take(jnp.asarray(rows.start), id, mode="clip"),
            jnp.take(jnp.asarray(rows.size), id, mode="fill", fill_value=0),
            id,
        )

    def pooled(self) -> FederatedData:
        """One client that holds what the N clients hold, for centralized training; unseen clients are left out."""

        def pool(rows: Rows) -> Rows:
            size = np.asarray(rows.size)[: self.num_clients].sum(keepdims=True, dtype=np.int32)
            return Rows(np.asarray(rows.start)[:1], size)

        train, validation, test = (pool(self._rows(split)) for split in SPLITS)
        return replace(
            self,
            train=train,
            validation=validation,
            test=test,
            num_clients=1,
            num_unseen=0,
            name=f"{self.name} (pooled)",
            fingerprint=sha256(f"pooled {self.fingerprint}".encode()).hexdigest()[:16],
            capacity=int(train.size[0]),
        )

    def sizes(self, split: Split = "train") -> np.ndarray:
        """[N + U] examples of each client."""
        return np.asarray(self._rows(split).size)

    def label_counts(self, split: Split = "train") -> np.ndarray:
        """[N + U, C] examples of each class that each client holds.

        Raises:
          ValueError: if labels are not classes.
        """
        if self.num_classes is None:
            raise ValueError(f"{self.name} has no classes to count: its targets are real numbers")
        y, rows = np.asarray(self.examples.y), self._rows(split)
        spans = zip(np.asarray(rows.start), np.asarray(rows.size), strict=True)
        return np.stack([np.bincount(y[a : a + n].ravel(), minlength=self.num_classes) for a, n in spans])

    def describe(self) -> dict[str, float]:
        """Plain numbers for a table: clients, examples, training sizes, mean number of labels of a client."""
        sizes = self.sizes()
        summary = {
            "clients": self.num_clients,
            "unseen": self.num_unseen,
            "examples": sum(int(self.sizes(split).sum()) for split in SPLITS),
            **{f"{split}_examples": int(self.sizes(split).sum()) for split in SPLITS},
            "size_min": int(sizes.min()),
            "size_median": float(np.median(sizes)),
            "size_max": int(sizes.max()),
        }
        if self.num_classes is not None:
            summary |= {
                "classes": self.num_classes,
                "labels_per_client": float((self.label_counts() > 0).sum(1).mean()),
            }
        return summary

    def __repr__(self) -> str:
        held = f"{self.num_clients} clients" + f" and {self.num_unseen} unseen" * bool(self.num_unseen)
        kind = "real targets" if self.num_classes is None else f"{self.num_classes} classes"
        examples = f"{len(self.examples.y):,} examples, {kind}, x={brief(self.examples.x)}"
        return f"FederatedData({self.name!r}: {held}, {examples})"

    def _rows(self, split: Split) -> Rows:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: choose {', '.join(SPLITS)}")
        return getattr(self, split)


def from_clients(
    train: Sequence[tuple[Tree, Any]],
    test: Sequence[tuple[Tree, Any]] | None = None,
    validation: Sequence[tuple[Tree, Any]] | None = None,
    *,
    unseen: int = 0,
    num_classes: int | None = None,
    name: str = "clients",
) -> FederatedData:
    """Packs examples that are already sorted by client.

    Args:
      train: `(x, y)` of each client, leaves [n, ...]; n may be 0 for some clients.
      test, validation: the same for as many clients, or None for no examples.
      unseen: how many of the last clients never train.
      num_classes: C; the largest integer label + 1 if None.
      name: how reports call it.

    Raises:
      ValueError: if lists differ in length, a client's arrays do not fit those of the first client, or nobody
        is left to train.

    >>> data = from_clients([([[1.0], [2.0]], [0, 1]), ([[3.0]], [1])])
    >>> data.sizes().tolist(), data.capacity, data.num_classes
    ([2, 1], 2, 2)
    """
    population = len(train)
    if not 0 <= unseen < population:
        raise ValueError(f"unseen={unseen} of {population} clients leaves nobody to train: lower it")
    first = next((pair for pair in map(_pair, train) if len(pair.y)), _pair(train[0]))
    nothing = jax.tree.map(lambda leaf: leaf[:0], first)
    parts = {"train": train, "validation": validation, "test": test}
    packed: list[Examples] = []
    for split, clients in parts.items():
        if clients is not None and len(clients) != population:
            raise ValueError(f"{split} lists {len(clients)} clients and train lists {population}; they must agree")
        for client in range(population):
            pair = nothing if clients is None else _pair(clients[client])
            packed.append(_checked(pair, nothing, f"client {client} ({split})"))
    sizes = np.array([len(pair.y) for pair in packed], np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    rows = [Rows(*pair) for pair in zip(starts.reshape(3, -1), sizes.reshape(3, -1), strict=True)]
    examples = Examples(*jax.tree.map(lambda *leaves: np.concatenate(leaves), *packed))
    if num_classes is None:
        num_classes = count_classes(np.asarray(examples.y))
    return FederatedData(
        examples,
        *rows,
        num_clients=population - unseen,
        num_unseen=unseen,
        num_classes=num_classes,
        name=name,
        fingerprint=_fingerprint(examples, sizes, unseen),
        capacity=int(sizes[:population].max()),
    )


def federate(
    dataset: Dataset,
    partitioner: Partitioner,
    *,
    test: float | Literal["mirror", "pooled"] = 0.25,
    validation: float = 0.0,
    unseen: float = 0.0,
    seed: int = 0,
    min_size: int = 1,
) -> FederatedData:
    """Deals a data set to clients and splits what each of them holds.

    Args:
      dataset: the pooled examples.
      partitioner: who holds which, from `pfljax.data.partition`.
      test: what clients are tested on. A share: that much of their own examples, the official test set is not used.
        `"mirror"`: the official test examples, each class dealt in proportion to the training examples of that class.
        `"pooled"`: official test examples are dealt along with the others, then a quarter is split off.
      validation: share of the remaining training examples.
      unseen: share of the clients that never train, picked by a permutation and numbered last.
      seed: of the partition, of the choice of unseen clients and of the splits, which draw from separate streams.
      min_size: fewest examples that a client may hold; 0 allows empty clients.

    Returns:
      The federation. A client with 2 examples or more has at least one to train and, for a test share above 0, one to
      test; a single example is trained on.

    Raises:
      ValueError: if a share is not in [0, 1), a client holds too little, or the official test set is missing.
    """
    for option, share in {"test": test, "validation": validation, "unseen": unseen}.items():
        if not isinstance(share, str) and not 0 <= share < 1:
            raise ValueError(f"{option}={share}: it is a share and must lie in [0, 1)")
    if isinstance(test, str) and test not in ("mirror", "pooled"):
        raise ValueError(f"test={test!r}: give a share such as 0.25, 'mirror' or 'pooled'")
    source = dataset.merged() if test == "pooled" else dataset
    held = partitioner(source, _stream(seed, _PARTITION))
    for client, rows in enumerate(held):
        if len(rows) < min_size:
            raise ValueError(
                f"client {client} holds {len(rows)} examples, fewer than min_size={min_size}: "
                "use fewer clients, a milder skew or a lower min_size"
            )
    num_unseen = round(unseen * len(held))
    if num_unseen >= len(held):
        raise ValueError(f"unseen={unseen} of {len(held)} clients leaves nobody to train: lower it or use more clients")
    order = _stream(seed, _UNSEEN).permutation(len(held))
    held = [held[client] for client in (*sorted(order[num_unseen:]), *sorted(order[:num_unseen]))]

    share = {"mirror": 0.0, "pooled": 0.25}[test] if isinstance(test, str) else test
    kept, tested, validated = [], [], []
    for client, rows in enumerate(held):
        generator = _stream(seed, _SPLIT, client)
        rest, test_rows = _split(rows, share, source.units, generator)
        train_rows, validation_rows = _split(rest, validation, source.units, generator)
        kept.append(source.take(train_rows))
        validated.append(source.take(validation_rows))
        tested.append(source.take(test_rows))
    if test == "mirror":
        tested = _mirror(dataset, [part.y for part in kept], _stream(seed, _MIRROR))
    train_pairs, test_pairs, validation_pairs = ([(p.x, p.y) for p in parts] for parts in (kept, tested, validated))
    return from_clients(
        train_pairs,
        test_pairs,
        validation_pairs,
        unseen=num_unseen,
        num_classes=dataset.num_classes,
        name=dataset.name,
    )


def _stream(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *path]))


def _split(
    rows: np.ndarray, share: float, units: np.ndarray | None, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled `rows` without about a `share`, and that share, whole units at a time."""
    unit = np.arange(len(rows)) if units is None else np.unique(units[rows], return_inverse=True)[1]
    sizes = np.bincount(unit)
    place = generator.permutation(len(sizes))
    taken = 0
    if share > 0 and len(sizes) > 1:
        cuts = np.cumsum(sizes[np.argsort(place)])[:-1]
        taken = 1 + int(np.argmin(np.abs(cuts - share * len(rows))))
    shuffled = generator.permutation(len(rows))
    away = place[unit[shuffled]] < taken
    return rows[shuffled[~away]], rows[shuffled[away]]


def _mirror(dataset: Dataset, train_labels: list[np.ndarray], generator: np.random.Generator) -> list[Dataset]:
    """Official test examples for each client: every one is dealt once, class by class, as training examples were."""
    official = dataset.test
    if official is None or dataset.num_classes is None or official.y.ndim != 1:
        raise ValueError(f"test='mirror' needs an official test set with class labels, which {dataset.name} has not")
    counts = np.stack([np.bincount(y, minlength=dataset.num_classes) for y in train_labels])
    dealt: list[list[np.ndarray]] = [[] for _ in train_labels]
    for label in np.flatnonzero(counts.sum(0)):
        rows = generator.permutation(np.flatnonzero(official.y == label))
        cuts = np.cumsum(apportion(len(rows), counts[:, label]))[:-1]
        for mine, part in zip(dealt, np.split(rows, cuts), strict=True):
            mine.append(part)
    return [official.take(np.concatenate(mine)) for mine in dealt]


def _is_array(value: Any) -> bool:
    """Lists of numbers count as arrays, so that examples can be written out."""
    return isinstance(value, list)


def _pair(pair: tuple[Tree, Any]) -> Examples:
    x, y = pair
    stored: Any = labels(y)
    return Examples(jax.tree.map(np.asarray, x, is_leaf=_is_array), stored)


def _checked(pair: Examples, model: Examples, who: str) -> Examples:
    """`pair` if it has the structure, row shapes and dtypes of `model`."""
    if jax.tree.structure(pair) != jax.tree.structure(model):
        raise ValueError(f"{who} has {jax.tree.structure(pair)}, but the first client has {jax.tree.structure(model)}")
    for leaf, other in zip(jax.tree.leaves(pair), jax.tree.leaves(model), strict=True):
        if len(leaf) and (leaf.shape[1:], leaf.dtype) != (other.shape[1:], other.dtype):
            raise ValueError(
                f"{who} has rows {leaf.dtype}{list(leaf.shape[1:])}, but the first client has rows "
                f"{other.dtype}{list(other.shape[1:])}: give all clients the same shape and dtype"
            )
        if len(leaf) != len(pair.y):
            raise ValueError(f"{who} has {len(leaf)} inputs and {len(pair.y)} labels; they must agree")
    return jax.tree.map(lambda leaf, other: leaf if len(leaf) else other, pair, model)


def _fingerprint(examples: Examples, sizes: np.ndarray, unseen: int) -> str:
    digest = sha256(f"{jax.tree.structure(examples)} {sizes.tolist()} {unseen}".encode())
    for leaf in jax.tree.leaves(examples):
        digest.update(f"{leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()[:16]
