"""Examples dealt to clients: packed arrays, and for each client the rows that are its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks
from pfljax.checks import Part, Seed, Size
from pfljax.data import door, scaling
from pfljax.data.columns import Inputs
from pfljax.data.dataset import Dataset
from pfljax.data.dealt import Partitioner, Parts
from pfljax.data.partition import PARTITIONS, apportion
from pfljax.data.scaling import Scaling, Standardize
from pfljax.printing import brief
from pfljax.types import Array, ClientData, Examples, Rows, Tree

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

FOREVER = np.iinfo(np.int32).max
"""Rounds that no run has."""

Unseen = Size | Part
"""How many clients never train, or the share of them."""

_PARTITION, _UNSEEN, _SPLIT, _MIRROR, _PUBLIC = range(5)


@dataclass(frozen=True, eq=False)
class Names:
    """What clients, classes and columns are called. Equal to any other, so that no compiled program depends on them."""

    clients: tuple[str, ...] | None = None  # N + U
    classes: tuple[str, ...] | None = None  # C
    inputs: Inputs | None = None  # of a table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Names)

    def __hash__(self) -> int:
        return 0


class Drift(NamedTuple):
    """Whose rows are whose in each round: segments that follow each other, S of them."""

    train: Rows  # leaves [S, N + U]
    validation: Rows  # leaves [S, N + U]
    test: Rows  # leaves [S, N + U]
    starts: Any  # [S] the round in which each segment begins, ascending from 0
    delays: Any  # [N + U] rounds by which each client is late
    period: Any  # [] rounds after which the first segment comes again

    def at(self, round: Array | int) -> dict[Split, Rows]:
        """The rows [N + U] of each split in a round, which may be traced."""
        drift = jax.tree.map(jnp.asarray, self)
        since = jnp.maximum(jnp.asarray(round, drift.delays.dtype) - drift.delays, 0) % drift.period
        segment = jnp.sum(drift.starts[:, None] <= since[None], axis=0) - 1
        own = segment, jnp.arange(len(drift.delays))
        return {split: jax.tree.map(lambda leaf: leaf[own], getattr(drift, split)) for split in SPLITS}


_STATIC = {"static": True}


def _static() -> Any:
    return field(metadata=_STATIC)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class FederatedData:
    """All examples of a population, packed: first the training rows of clients 0, 1, ..., then validation, then test.

    Clients 0..N-1 train; clients N..N+U-1 are unseen, they only onboard and are evaluated. A pytree: the arrays are
    its leaves, all else is static. Where clients drift, `train`, `validation` and `test` are their rows of the first
    round, and `at` has those of any other.
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
    capacity: int = _static()  # training examples of the largest client, in any round
    ignore: int | None = field(metadata=_STATIC, default=None)  # the label of what does not count
    called: Names = field(metadata=_STATIC, default_factory=Names)
    traits: Tree = ()  # what is known of each client, leaves [N + U, ...]
    public: Rows | None = None  # examples that everybody sees, after those of the clients
    drift: Drift | None = None  # the rows of each round, where they are not always the same

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the N + U clients is: its group, the name that was given, or its number."""
        return self.called.clients or tuple(map(str, range(self.num_clients + self.num_unseen)))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What each of the C classes is, where labels came as text, categories or Booleans."""
        return self.called.classes

    @property
    def inputs(self) -> Inputs | None:
        """How rows of the table that the examples come from become inputs; `inputs.read(frame, client)`."""
        return self.called.inputs

    def at(self, round: Array | int) -> FederatedData:
        """The federation as it is in a round, counted from 0, which may be traced: itself unless clients drift."""
        return self if self.drift is None else replace(self, drift=None, **self.drift.at(round))

    def after(self, rounds: Array | int) -> FederatedData:
        """The federation as it is in the last of so many rounds."""
        return self if self.drift is None else self.at(jnp.maximum(rounds - 1, 0))

    def client(self, id: Array | int, split: Split = "train") -> ClientData:
        """The view of client `id` ([], may be traced). An id of N + U or more holds nothing."""
        id = jnp.asarray(id)

        def own(rows: Rows) -> Rows:
            start = jnp.take(jnp.asarray(rows.start), id, mode="clip")
            return Rows(start, jnp.take(jnp.asarray(rows.size), id, mode="fill", fill_value=0))

        return ClientData(
            jax.tree.map(jnp.asarray, self.examples),
            *own(self._rows(split)),
            id,
            traits=jax.tree.map(lambda leaf: jnp.take(jnp.asarray(leaf), id, axis=0, mode="clip"), self.traits),
            validation=own(self.validation),
            public=Rows(0, 0) if self.public is None else self.public,
        )

    def everybodys(self) -> ClientData | None:
        """The public examples as those of a client, None if there are none."""
        return None if self.public is None else self.client(self.num_clients + self.num_unseen).on(self.public)

    def with_traits(self, traits: Tree) -> FederatedData:
        """The same federation with what is known of each client, such as its context or its group.

        Args:
          traits: arrays of numbers with a row for each client, leaves [N + U, ...], unseen clients last.

        Raises:
          ValueError: if an array has another number of rows, or is not of finite numbers.

        >>> data = from_clients([([[1.0]], [0]), ([[2.0]], [1])]).with_traits({"age": [31, 58]})
        >>> int(data.client(1).traits["age"])
        58
        """
        clients = self.num_clients + self.num_unseen
        listed = jax.tree.leaves(traits, is_leaf=lambda value: isinstance(value, list))
        structure = jax.tree.structure(traits, is_leaf=lambda value: isinstance(value, list))
        table = door.inputs(jax.tree.unflatten(structure, map(np.asarray, listed)), f"traits of {self.name}")
        door.check_inputs(table, f"traits of {self.name}")
        for leaf in jax.tree.leaves(table):
            if len(leaf) != clients:
                raise ValueError(f"traits of {self.name} have {len(leaf)} rows: give one for each of {clients} clients")
        return replace(self, traits=table, fingerprint=followed(self.fingerprint, "traits", table))

    def with_public(self, x: Tree, y: Any = None) -> FederatedData:
        """The same federation with examples that everybody sees, the server too.

        Args:
          x: inputs as those of the clients, leaves [P, ...].
          y: their labels; without labels zeros, which no method that asks for none reads.

        Raises:
          ValueError: if there are some already, or they do not fit those of the clients.

        >>> data = from_clients([([[1.0], [2.0]], [0, 1])]).with_public([[5.0], [6.0], [7.0]])
        >>> int(data.client(0).public.size)
        3
        """
        name = f"public examples of {self.name}"
        if self.public is not None:
            raise ValueError(f"{self.name} has public examples already: give all of them at once")
        x = door.inputs(x, name)
        door.check_inputs(x, name)
        door.same_rows(x, self.examples.x, f"the {name}", "the first client")
        count, own = len(jax.tree.leaves(x)[0]), np.asarray(self.examples.y)
        if y is None:
            labels = np.zeros((count, *own.shape[1:]), own.dtype)
        else:
            given = {" of the public examples": y}
            labels = door.labels(given, self.name, num_classes=self.num_classes, ignore=self.ignore).y
        if labels.shape != (count, *own.shape[1:]) or not count:
            raise ValueError(f"the {name} are {count} inputs and labels {list(labels.shape)}: give one label for each")
        aligned: Any = labels.astype(own.dtype)
        public = Examples(x, aligned)
        examples = jax.tree.map(lambda *leaves: np.concatenate(leaves), self.examples, public)
        rows = Rows(np.int32(len(own)), np.int32(count))
        fingerprint = followed(self.fingerprint, "public", public)
        return replace(self, examples=examples, public=rows, fingerprint=fingerprint)

    def pooled(self) -> FederatedData:
        """One client that holds what the N clients hold, for centralized training; unseen clients are left out."""

        def pool(rows: Rows) -> Rows:
            size = np.asarray(rows.size)[: self.num_clients].sum(keepdims=True, dtype=np.int32)
            return Rows(np.asarray(rows.start)[:1], size)

        if self.drift is None:
            shared: dict[str, Any] = {split: pool(self._rows(split)) for split in SPLITS}
        else:
            shared = self._pooled_in_time(self.drift)
        pooled = replace(
            self,
            **shared,
            num_clients=1,
            num_unseen=0,
            name=f"{self.name} (pooled)",
            fingerprint=sha256(f"pooled {self.fingerprint}".encode()).hexdigest()[:16],
            called=Names(("pooled",), self.class_names),
            traits=(),
        )
        return replace(pooled, capacity=pooled.most())

    def _pooled_in_time(self, drift: Drift) -> dict[str, Any]:
        """What `pooled` holds where clients drift: a copy of all that they hold, for each time that one changes."""
        late = np.unique(drift.delays[: self.num_clients])
        late = late[late < FOREVER]
        if drift.period < FOREVER and late.any():
            raise ValueError(
                f"clients of {self.name} drift at different times, again and again, and what all of them hold is "
                "another in each period: leave delays or recurring out, or choose fedavg"
            )
        rounds = np.union1d([0], np.add.outer(drift.starts, late))
        held = [getattr(self.at(int(round)), split) for split in SPLITS for round in rounds]
        rows = [places(*(np.asarray(leaf)[: self.num_clients] for leaf in each)) for each in held]
        size = np.array([len(mine) for mine in rows], np.int32).reshape(3, -1, 1)
        start = (np.cumsum(size) - size.ravel()).astype(np.int32).reshape(size.shape)
        shown = [] if self.public is None else [places(*self.public)]
        examples = jax.tree.map(lambda leaf: np.asarray(leaf)[np.concatenate([*rows, *shown])], self.examples)
        segments = [Rows(*pair) for pair in zip(start, size, strict=True)]
        public = None if self.public is None else Rows(np.int32(size.sum()), np.asarray(self.public.size))
        first = {split: Rows(of.start[0], of.size[0]) for split, of in zip(SPLITS, segments, strict=True)}
        delays = np.zeros(1, np.int32)
        return first | {
            "examples": examples,
            "drift": Drift(*segments, starts=rounds.astype(np.int32), delays=delays, period=drift.period),
            "public": public,
        }

    def sizes(self, split: Split = "train") -> np.ndarray:
        """[N + U] examples of each client."""
        return np.asarray(self._rows(split).size)

    def most(self, split: Split = "train") -> int:
        """Examples of the largest client, in any round."""
        rows = self._rows(split) if self.drift is None else getattr(self.drift, split)
        return int(np.max(rows.size))

    def label_counts(self, split: Split = "train") -> np.ndarray:
        """[N + U, C] examples of each class that each client holds; ignored labels are left out.

        Raises:
          ValueError: if labels are not classes.
        """
        if self.num_classes is None:
            raise ValueError(f"{self.name} has no classes to count: its targets are real numbers")
        y, rows = np.asarray(self.examples.y), self._rows(split)
        spans = zip(np.asarray(rows.start), np.asarray(rows.size), strict=True)
        held = [y[a : a + n].ravel() for a, n in spans]
        if self.ignore is not None:
            held = [mine[mine != self.ignore] for mine in held]
        return np.stack([np.bincount(mine, minlength=self.num_classes) for mine in held])

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
    ignore: int | None = None,
    names: Sequence[str] | None = None,
    name: str = "clients",
) -> FederatedData:
    """Packs examples that are already sorted by client; they are read and checked as `from_arrays` does.

    Args:
      train: `(x, y)` of each client, leaves [n, ...]; n may be 0 for some clients.
      test, validation: the same for as many clients, or None for no examples.
      unseen: how many of the last clients never train.
      num_classes, ignore: see `from_arrays`.
      names: what each client is; its number if None.
      name: how reports call it.

    Raises:
      ValueError: if lists differ in length, a client's arrays do not fit those of the first client, nobody is left to
        train, or for what `from_arrays` refuses.

    >>> data = from_clients([([[1.0], [2.0]], ["no", "yes"]), ([[3.0]], ["yes"])], names=["north", "south"])
    >>> data.sizes().tolist(), data.capacity, data.class_names, data.names
    ([2, 1], 2, ('no', 'yes'), ('north', 'south'))
    """
    splits = {"train": train, "validation": validation, "test": test}
    given = {
        split: _pairs(clients, split) for split, clients in splits.items() if clients is not None or split == "train"
    }
    population = len(given["train"])
    checks.each(Size, unseen=unseen)
    if unseen >= population:
        raise ValueError(f"unseen={unseen} of {population} clients leaves nobody to train: lower it")
    for split, pairs in given.items():
        if len(pairs) != population:
            raise ValueError(f"{split} lists {len(pairs)} clients and train lists {population}; they must agree")
    parts = {f" of client {i} ({split})": pair for split, pairs in given.items() for i, pair in enumerate(pairs)}
    found = door.labels({part: y for part, (_, y) in parts.items()}, name, num_classes=num_classes, ignore=ignore)
    lengths = {part: len(y) for part, (_, y) in parts.items()}
    x = _joined({part: door.inputs(x, name, part) for part, (x, _) in parts.items()}, lengths)
    door.check_inputs(x, name, door.places(lengths))
    counts = iter(lengths.values())
    sizes = np.array([next(counts) if split in given else 0 for split in SPLITS for _ in range(population)])
    kept = door.counted(found.y, ignore)
    if not kept.all():
        sizes = np.bincount(np.repeat(np.arange(len(sizes)), sizes)[kept], minlength=len(sizes))
        x = jax.tree.map(lambda leaf: leaf[kept], x)
    called = Names(None if names is None else _unique(names, population), found.names)
    y: Any = found.y[kept]
    return _pack(Examples(x, y), sizes, unseen, found.num_classes, ignore, name, called)


def federate(
    dataset: Dataset,
    partitioner: Partitioner,
    *,
    test: float | Literal["mirror", "pooled", "given"] = 0.25,
    validation: float = 0.0,
    unseen: float = 0.0,
    public: float = 0.0,
    stratify: bool = False,
    chronological: bool = False,
    standardize: Standardize | None = None,
    seed: int = 0,
    min_size: int = 1,
) -> FederatedData:
    """Deals a data set to clients and splits what each of them holds.

    Args:
      dataset: the pooled examples.
      partitioner: who holds which, from `pfljax.data.partition`, or a function of your own that returns row numbers.
      test: what clients are tested on. A share: that much of their own examples, the official test set is not used.
        `"mirror"`: the official test examples. Where that set names groups and each client is a group of its own, every
        client gets those of its group (none, if the set has none of it; people who are only in the official test set
        are left out). Elsewhere each class is dealt in proportion to the training examples of that class.
        `"pooled"`: official test examples are dealt along with the others, then a quarter of what each client holds is
        split off; people who are only in the official test set become clients too. `"given"`: as the data set's `split`
        says of each example, or what a partitioner says that splits what it deals, as those of published codes do; rows
        then go on with those of the official test set, and stay in order where nothing validates.
      validation: share of the remaining training examples.
      unseen: share of the clients that never train, or how many, picked by a permutation and numbered last.
      public: share of the examples that everybody sees, drawn at random before any are dealt; nobody holds them, and
        the partitioner numbers the others anew. Examples of another set are public by `with_public`.
      stratify: split each class of each client on its own, so that all parts have its labels in like proportion; a
        class of which a client holds two examples or more is in both parts.
      chronological: test on the last examples of each client, validate on the last of those before: by the `times` of
        the data set, or in the order given.
      standardize: numbers of the inputs less their mean, over their standard deviation, in the training examples of
        all clients (`"pooled"`; unseen ones do not count) or in each client's own (`"client"`), or as they are
        (`"none"`). A number is a feature, or a channel, on the last axis. None: tables are pooled, arrays as they are.
      seed: of the public examples, of the partition, of the choice of unseen clients and of the splits, which draw from
        separate streams.
      min_size: fewest examples that a client may hold; 0 allows empty clients.

    Returns:
      The federation. A client with 2 examples or more has at least one to train and, for a test share above 0, one to
      test; a single example is trained on. Units are never torn apart. Clients that are groups keep their names.

    Raises:
      ValueError: if an argument is out of range, a client holds too little, the official test set is missing or has
        nothing of any client, or a row is held twice.
    """
    checks.each(Part | Literal["mirror", "pooled", "given"], test=test)
    checks.each(Part, validation=validation, public=public)
    checks.each(Unseen, unseen=unseen)
    checks.each(Standardize | None, standardize=standardize)
    checks.each(bool, stratify=stratify, chronological=chronological)
    checks.each(Seed, seed=seed)
    checks.each(Size, min_size=min_size)
    _check_ingredients(dataset, partitioner)
    source = dataset.merged() if test == "pooled" else dataset
    if stratify:
        _check_strata(source)
    source, shown = _apart(source, public, _stream(seed, _PUBLIC))
    held, given, names = _deal(source, partitioner, _stream(seed, _PARTITION))
    _check_given(source, given is not None, test, validation, public)
    if given is not None and source.test is not None:
        source = source.merged()
    groups = _groups(source, held)
    for client, rows in enumerate(held):
        if len(rows) < min_size:
            raise ValueError(
                f"client {client} holds {len(rows)} examples, fewer than min_size={min_size}: "
                "use fewer clients, a milder skew or a lower min_size"
            )
    num_unseen = unseen if isinstance(unseen, int) else round(unseen * len(held))
    if num_unseen >= len(held):
        raise ValueError(f"unseen={unseen} of {len(held)} clients leaves nobody to train: lower it or use more clients")
    order = _stream(seed, _UNSEEN).permutation(len(held))
    numbered = [*sorted(order[num_unseen:]), *sorted(order[:num_unseen])]
    held = [held[n] for n in numbered]
    names, groups, given = (
        None if found is None else [found[n] for n in numbered] for found in (names or groups, groups, given)
    )

    share = {"mirror": 0.0, "pooled": 0.25, "given": None}[test] if isinstance(test, str) else test
    split = _Splitter(source, stratify, chronological)
    kept, tested, validated = [], [], []
    for client, rows in enumerate(held):
        generator = _stream(seed, _SPLIT, client)
        said = None if given is None else given[client]
        train_rows, validation_rows, test_rows = split.parts(rows, share, validation, said, generator)
        kept.append(train_rows)
        validated.append(validation_rows)
        tested.append(test_rows)
    official = source
    if test == "mirror":
        official, tested = _mirror(source, kept, groups, _stream(seed, _MIRROR))
    parts = (source, kept), (source, validated), (official, tested)
    taken = [_taken(of, np.concatenate(rows)) for of, rows in parts]
    examples = Examples(*jax.tree.map(lambda *leaves: np.concatenate(leaves), *taken))
    sizes = np.array([len(rows) for _, part in parts for rows in part])
    called = Names(None if names is None else tuple(map(str, names)), dataset.class_names)
    scale = _scaling(dataset, examples.x, sizes.reshape(3, -1)[0], len(held) - num_unseen, standardize)
    if scale is not None:
        holder = np.repeat(np.tile(np.arange(len(held)), 3), sizes)
        examples = examples._replace(x=scale(examples.x, holder))
        shown = None if shown is None else replace(shown, x=scale(shown.x, -1), columns=None)
        called = replace(called, inputs=dataset.columns and Inputs(dataset.columns, scale))
        order = np.concatenate([row for _, rows in parts for row in rows])
        door.check_inputs(examples.x, dataset.name, lambda row: f"row {order[row]}")
    data = _pack(examples, sizes, num_unseen, dataset.num_classes, dataset.ignore, dataset.name, called)
    return data if shown is None else data.with_public(shown.x, shown.y)


def deal(dataset: Dataset, partitioner: Partitioner, *, seed: int = 0) -> dict[str, Any]:
    """Who holds which rows, by the clients' names, as `federate` with this seed deals them; `lists.save` keeps it.

    Raises:
      ValueError: for what `federate` refuses.

    >>> from pfljax.data import from_arrays, partition
    >>> dataset = from_arrays(np.arange(4.0)[:, None], np.array([0, 1, 0, 1]))
    >>> {name: rows.tolist() for name, rows in deal(dataset, partition.by_index([[3, 0], [2]])).items()}
    {'0': [3, 0], '1': [2]}
    """
    checks.each(Seed, seed=seed)
    _check_ingredients(dataset, partitioner)
    held, given, names = _deal(dataset, partitioner, _stream(seed, _PARTITION))
    found = held if given is None else [Parts(*parts) for parts in zip(held, given, strict=True)]
    return dict(zip(names or _groups(dataset, held) or map(str, range(len(held))), found, strict=True))


def _scaling(
    dataset: Dataset, x: Tree, sizes: np.ndarray, num_clients: int, standardize: Standardize | None
) -> Scaling | None:
    """What the training rows, `sizes` [N + U] at the beginning of `x`, say of its numbers; None: leave them alone."""
    columns = dataset.columns
    if (standardize in (None, "none") and columns is None) or not sizes[:num_clients].any():
        return None
    if not (hasattr(x, "dtype") and x.dtype.kind == "f" and x.ndim > 1):
        raise ValueError(
            f"standardize={standardize!r}: inputs of {dataset.name} are {brief(x)}, and it is for numbers, floats "
            "[T, ..., features]: leave it out"
        )
    asked: dict[str, Any] = {"standardize": standardize or "pooled"}
    if columns is not None:
        asked |= {"missing": columns.missing, "numbers": len(columns.numbers)}
    try:
        return scaling.fitted(x[: sizes.sum()], sizes, num_clients, **asked)
    except scaling.Empty as error:
        name = error.feature if columns is None else columns.numbers[error.feature]
        raise ValueError(f"{dataset.name}: column {name!r} is missing in all training rows: leave it out") from None


def _apart(source: Dataset, share: float, generator: np.random.Generator) -> tuple[Dataset, Dataset | None]:
    """`source` without about a share of its examples, and those; whole units at a time."""
    if not share:
        return source, None
    order = np.arange(len(source)) if source.order is None else source.order
    counted = order[door.counted(source.y, source.ignore)[order]]
    _, shown = _Splitter(source, stratify=False, chronological=False)(counted, share, generator)
    if not len(shown):
        raise ValueError(f"public={share} leaves nothing to deal: {source.name} is a single unit, leave public out")
    return source.take(np.setdiff1d(order, shown)), source.take(shown)


def _stream(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *path]))


def _check_ingredients(dataset: Any, partitioner: Any) -> None:
    if not isinstance(dataset, Dataset):
        raise ValueError(f"federate deals a data set, not {brief(dataset)}: make one with load or from_arrays")
    if isinstance(partitioner, str):
        raise ValueError(
            f"partitioner={partitioner!r} is a name, and a partitioner is a function, such as "
            f"pfl.dirichlet(clients=20, alpha=0.1); {checks.nearest(partitioner, PARTITIONS)}"
        )
    if partitioner in PARTITIONS.values():
        raise ValueError(f"{partitioner.__name__} makes a partitioner: call it, as in pfl.{partitioner.__name__}(...)")
    try:
        inspect.signature(partitioner).bind(dataset, None)
    except TypeError as error:
        raise ValueError(
            f"partitioner={brief(partitioner)} is no function (dataset, generator) -> rows of each client "
            f"({error}): use pfl.by_index for lists of rows"
        ) from error


def _check_given(dataset: Dataset, dealt: bool, test: Any, validation: float, public: float) -> None:
    """Refuses a given split that is not there, not used, said twice, or says of validation what is drawn again."""
    split = dataset.split
    if test != "given" and (dealt or split is not None):
        who = "the partitioner" if dealt else dataset.name
        raise ValueError(f"test={test!r}, and {who} says itself who is tested on what: set test='given'")
    if test == "given" and not dealt and split is None:
        raise ValueError("test='given', and neither data set nor partitioner say who is tested on what: set test=0.25")
    if dealt and split is not None:
        raise ValueError(f"both {dataset.name} and the partitioner say who is tested on what: leave one out")
    if dealt and public:
        raise ValueError(
            f"public={public} would number the rows anew, and the partitioner knows the old ones: leave public out, or "
            "give examples with_public"
        )
    if split is not None and (unknown := sorted(set(split) - set(SPLITS))):
        raise ValueError(f"{dataset.name}: the split of an example is {unknown[0]!r}: say {', '.join(SPLITS)}")
    if split is not None and validation and (split == "validation").any():
        raise ValueError(
            f"validation={validation}: {dataset.name} says itself which examples validate: leave validation out"
        )


def _check_strata(dataset: Dataset) -> None:
    """Refuses what has no class for each example, or units of several classes."""
    if dataset.num_classes is None or dataset.y.ndim != 1:
        raise ValueError(f"stratify=True needs one class for each example, which {dataset.name} has not: leave it out")
    if dataset.units is not None:
        pairs = np.unique(np.stack([np.unique(dataset.units, return_inverse=True)[1], dataset.y]), axis=1)
        if (torn := pairs[0][1:] == pairs[0][:-1]).any():
            unit = np.unique(dataset.units)[pairs[0][1:][torn][0]]
            raise ValueError(
                f"stratify=True would tear the unit {unit} of {dataset.name}, which has several classes: leave "
                "stratify or units out"
            )


def _deal(
    dataset: Dataset, partitioner: Partitioner, generator: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray] | None, list[Any] | None]:
    """The rows of each client that count, checked; those that test, where it says so; names of the clients, if any."""
    dealt = partitioner(dataset, generator)
    names = None
    if isinstance(dealt, Mapping):
        names, dealt = list(_unique(list(dealt), len(dealt))), list(dealt.values())
    if not isinstance(dealt, list | tuple | np.ndarray) or not len(dealt):
        raise ValueError(f"the partitioner returned {brief(dealt)}: it must return the rows of each client")
    if isinstance(dealt[0], Parts):
        return *_split(dataset, list(dealt)), names
    held = [_rows(rows, len(dataset), client) for client, rows in enumerate(dealt)]
    joined = np.concatenate(held)
    rows, counts = np.unique(joined, return_counts=True)
    if (counts > 1).any():
        row = rows[counts > 1][0]
        holders = np.repeat(np.arange(len(held)), [len(mine) for mine in held])[joined == row]
        raise ValueError(
            f"row {row} is held twice, by clients {holders[0]} and {holders[1]}, and could be trained on and tested: "
            "list each row once, or repeat the example in the arrays"
        )
    counted = door.counted(dataset.y, dataset.ignore)
    return [rows[counted[rows]] for rows in held], None, names


def _split(dataset: Dataset, dealt: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What each client trains on and is tested on, checked."""
    if not all(isinstance(parts, Parts) for parts in dealt):
        raise ValueError("the partitioner splits the rows of some clients only: return Parts(train, test) for all")
    y = dataset.y if dataset.test is None else np.concatenate([dataset.y, dataset.test.y])
    counted, held = door.counted(y, dataset.ignore), []
    for part in zip(*dealt, strict=True):
        rows = [_rows(mine, len(y), client) for client, mine in enumerate(part)]
        held.append([mine[counted[mine]] for mine in rows])
    kept, tested = held
    for client, (mine, shown) in enumerate(zip(kept, tested, strict=True)):
        if len(both := np.intersect1d(mine, shown)):
            raise ValueError(f"client {client} trains on row {both[0]} and is tested on it: list it once")
    return kept, tested


def _rows(given: Any, examples: int, client: int) -> np.ndarray:
    """Row numbers of one client, checked."""
    rows = door.array(given, f"the rows of client {client}")
    if rows.size == 0:
        return np.zeros(0, int)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"the rows of client {client} are {rows.dtype}{list(rows.shape)}: give whole numbers [n]; np.flatnonzero "
            "makes them of a mask"
        )
    if not 0 <= rows.min() <= rows.max() < examples:
        raise ValueError(
            f"the rows of client {client} lie in {rows.min()}..{rows.max()}, and there are {examples} examples: number "
            f"them 0..{examples - 1}"
        )
    return rows.astype(int)


def _groups(dataset: Dataset, held: Sequence[np.ndarray]) -> list[Any] | None:
    """The group that each client is, None unless each is one of its own."""
    if dataset.groups is None or not all(map(len, held)):
        return None
    groups, places = np.unique(dataset.groups, return_inverse=True)
    if any((places[rows] != places[rows[0]]).any() for rows in held):
        return None
    firsts = [places[rows[0]] for rows in held]
    return groups[firsts].tolist() if len(set(firsts)) == len(held) else None


@dataclass(frozen=True)
class _Splitter:
    """`(rows, share, generator) -> (rows without about a share, that share)`, whole units at a time."""

    dataset: Dataset
    stratify: bool
    chronological: bool

    def __call__(self, rows: np.ndarray, share: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if not self.stratify or not len(rows):
            return self._split(rows, share, generator)
        label = self.dataset.y[rows]
        parts = [self._split(rows[label == mine], share, generator) for mine in np.unique(label)]
        rest, away = (np.concatenate(part) for part in zip(*parts, strict=True))
        return self._walked(rest, generator), away

    def parts(
        self,
        rows: np.ndarray,
        test: float | None,
        validation: float,
        said: np.ndarray | None,
        generator: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows of a client that train, validate and test.

        Args:
          rows: of the client.
          test, validation: shares; where `test` is None, the partitioner or the data set says who tests, and who
            validates too, if `validation` is 0.
          said: rows that test, of a partitioner that says so.
          generator: of what is random.
        """
        if test is not None:
            rest, tested = self(rows, test, generator)
        else:
            rest, tested = self._stated(rows, "test", generator) if said is None else (rows, said)
        if test is not None or validation:
            return *self(rest, validation, generator), tested
        return *(self._stated(rest, "validation", generator) if said is None else (rest, rest[:0])), tested

    def _stated(self, rows: np.ndarray, name: Split, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The rows of which the data set does not say `name`, and those of which it does."""
        assert self.dataset.split is not None
        rows = self._walked(rows, generator)
        away = self.dataset.split[rows] == name
        return rows[~away], rows[away]

    def _walked(self, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """`rows` in time, or at random."""
        if not self.chronological:
            return generator.permutation(rows)
        times = self.dataset.times
        return rows[np.lexsort([rows] if times is None else [rows, times[rows]])]

    def _split(self, rows: np.ndarray, share: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self.chronological:
            rows = self._walked(rows, generator)
        units = np.arange(len(rows)) if self.dataset.units is None else self.dataset.units[rows]
        unit = np.unique(units, return_inverse=True)[1]
        sizes = np.bincount(unit)
        if self.chronological:
            last = np.zeros(len(sizes), int)
            last[unit] = np.arange(len(rows))
            place = np.argsort(np.argsort(-last))
        else:
            place = generator.permutation(len(sizes))
        taken = 0
        if share > 0 and len(sizes) > 1:
            cuts = np.cumsum(sizes[np.argsort(place)])[:-1]
            taken = 1 + int(np.argmin(np.abs(cuts - share * len(rows))))
        away = place[unit] < taken
        if not self.chronological:
            walk = generator.permutation(len(rows))
            rows, away = rows[walk], away[walk]
        return rows[~away], rows[away]


def _taken(dataset: Dataset, rows: np.ndarray) -> Tree:
    return jax.tree.map(lambda leaf: leaf[rows], (dataset.x, dataset.y))


def _mirror(
    dataset: Dataset, kept: Sequence[np.ndarray], groups: list[Any] | None, generator: np.random.Generator
) -> tuple[Dataset, list[np.ndarray]]:
    """The official test set, and which of its rows each client gets: those of its group, or by classes."""
    official = dataset.test
    if official is None:
        raise ValueError(f"test='mirror' needs an official test set, which {dataset.name} has not: give a share")
    order = np.arange(len(official)) if official.order is None else official.order
    if groups is not None and official.groups is not None:
        order = order[door.counted(official.y, official.ignore)[order]]
        return official, _own(order, official.groups, groups, dataset.name)
    if dataset.num_classes is None or official.y.ndim != 1:
        raise ValueError(f"test='mirror' needs class labels, or groups in the official test set of {dataset.name}, "
                         "which has neither: give a share")  # fmt: skip
    counts = np.stack([np.bincount(dataset.y[rows], minlength=dataset.num_classes) for rows in kept])
    dealt: list[list[np.ndarray]] = [[] for _ in kept]
    for label in np.flatnonzero(counts.sum(0)):
        rows = generator.permutation(order[official.y[order] == label])
        cuts = np.cumsum(apportion(len(rows), counts[:, label]))[:-1]
        for mine, part in zip(dealt, np.split(rows, cuts), strict=True):
            mine.append(part)
    return official, [np.concatenate(mine) for mine in dealt]


def _own(order: np.ndarray, groups: np.ndarray, clients: list[Any], name: str) -> list[np.ndarray]:
    """The rows of each client's group, in the given order."""
    found, places = np.unique(groups[order], return_inverse=True)
    starts = np.cumsum(np.bincount(places, minlength=len(found)))[:-1]
    rows = dict(zip(found.tolist(), np.split(order[np.argsort(places, kind="stable")], starts), strict=True))
    if not rows.keys() & set(clients):
        raise ValueError(
            f"the official test set of {name} is of other groups, such as {found[0]}, than the clients, such as "
            f"{clients[0]}: give a share to test each on its own examples, or test='pooled' to make clients of all"
        )
    return [rows.get(client, order[:0]) for client in clients]


def places(starts: Any, sizes: Any) -> np.ndarray:
    """The numbers of neighbouring rows, one client after the other."""
    starts, sizes = np.ravel(starts), np.ravel(sizes)
    return np.arange(sizes.sum()) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)


def _pairs(clients: Any, split: str) -> list[tuple[Tree, Any]]:
    if not isinstance(clients, Sequence) or isinstance(clients, str):
        raise ValueError(f"{split} is {brief(clients)}: give a list of pairs (x, y), one for each client")
    return [door.pair(given, f"client {client} ({split})") for client, given in enumerate(clients)]


def _unique(names: Any, population: int) -> tuple[str, ...]:
    """Names of clients, checked."""
    listed = isinstance(names, Sequence | np.ndarray) and not isinstance(names, str)
    texts = tuple(map(str, names)) if listed else ()
    if len(texts) != population or len(set(texts)) < population:
        raise ValueError(f"names={brief(names)}: give one name for each of {population} clients, all different")
    return texts


def _joined(parts: Mapping[str, Tree], lengths: Mapping[str, int]) -> Tree:
    """Inputs of several clients, which must agree in structure, row shapes and dtypes."""
    first = next((x for part, x in parts.items() if lengths[part]), next(iter(parts.values())))
    for part, x in parts.items():
        who = part.removeprefix(" of ")
        door.same_rows(x, first, who, "the first client")
        for leaf in jax.tree.leaves(x):
            if len(leaf) != lengths[part]:
                raise ValueError(f"{who} has {len(leaf)} inputs and {lengths[part]} labels; they must agree")
    filled = [x for part, x in parts.items() if lengths[part]] or [first]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *filled)


def _pack(
    examples: Examples,
    sizes: np.ndarray,
    unseen: int,
    num_classes: int | None,
    ignore: int | None,
    name: str,
    called: Names,
) -> FederatedData:
    """The federation of examples that lie as `sizes` [3 (N + U)] say: split by split, client by client."""
    sizes = sizes.astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32)
    rows = [Rows(*pair) for pair in zip(starts.reshape(3, -1), sizes.reshape(3, -1), strict=True)]
    clients = len(sizes) // 3 - unseen
    if not sizes[:clients].any():
        raise ValueError(f"{name}: none of the {clients} clients has an example to train on: give at least one")
    return FederatedData(
        examples,
        *rows,
        num_clients=clients,
        num_unseen=unseen,
        num_classes=num_classes,
        name=name,
        fingerprint=_fingerprint(examples, sizes, unseen),
        capacity=int(sizes[: clients + unseen].max()),
        ignore=ignore,
        called=called,
    )


def _fingerprint(examples: Examples, sizes: np.ndarray, unseen: int) -> str:
    return digest(f"{jax.tree.structure(examples)} {sizes.tolist()} {unseen}", examples)


def followed(before: str, what: str, values: Tree) -> str:
    """The fingerprint of a federation that got something more."""
    return digest(f"{before} {what} {jax.tree.structure(values)}", values)


def digest(text: str, arrays: Tree) -> str:
    """16 hex digits of a text and of the bytes of arrays."""
    digest = sha256(text.encode())
    for leaf in map(np.asarray, jax.tree.leaves(arrays)):
        digest.update(f"{leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data)
    return digest.hexdigest()[:16]
