"""Partitioners: who holds which examples.

A partitioner is a function `(dataset, generator) -> rows of each client`; row i is example i of the data set, in the
order in which it was given. Those of this module draw from the given NumPy generator only, give every example to
exactly one client (unless they say otherwise), deal the same examples whatever the order of the source, and end for
every input, with a result or with one `ValueError`. Letters: T examples, N clients, C classes that occur in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Annotated, Literal

import numpy as np

from pfljax import checks
from pfljax.checks import Bounds, Count, Share, Size
from pfljax.data.dataset import Dataset
from pfljax.data.dealt import Held, Partitioner
from pfljax.data.door import array
from pfljax.data.lists import by_file
from pfljax.data.published import PUBLISHED
from pfljax.printing import brief

Alpha = Annotated[float, Bounds(above=0, most=1e9)]
"""The concentration of a Dirichlet distribution; 1e9 is as good as IID."""

Moderate = Annotated[float, Bounds(least=0, most=100)]
"""At 100 one client holds nearly all."""

# Below, a Dirichlet share is mostly smaller than the 1e-9 that keeps Sinkhorn's scaling alive.
_SHARP = 0.02
# As good as the limit, in which one share is 1.
_SHARPEST = 1e-100


def _in_canonical_order(deal: Callable[..., list[np.ndarray]]) -> Partitioner:
    """`deal`, which numbers the examples as `Dataset.order` does, with rows as they were given."""

    @wraps(deal)
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        order = dataset.order
        if order is None:
            return deal(dataset, generator)
        return [order[rows] for rows in deal(replace(dataset, x=(), test=None).take(order), generator)]

    return partition


def iid(clients: int, sizes: Sequence[int] | None = None) -> Partitioner:
    """A random permutation, cut into equal parts or into the given sizes (examples beyond their sum are left out).

    Raises:
      ValueError: if there are fewer examples than clients or than `sizes` ask for.
    """
    checks.each(Count, clients=clients)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        wanted = _sizes(sizes, clients, dataset)
        return _cut(generator.permutation(len(dataset)), wanted)

    return partition


def shards(clients: int, shards_per_client: int = 2) -> Partitioner:
    """Examples sorted by label, cut into N * `shards_per_client` equal shards, dealt at random.

    A shard that straddles two classes gives a client one label more than it has shards.

    Raises:
      ValueError: if there are fewer examples than shards.

    Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
    """
    checks.each(Count, clients=clients, shards_per_client=shards_per_client)
    count = clients * shards_per_client

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        label, _ = _labels(dataset)
        if count > len(label):
            raise ValueError(f"{count} shards of {len(label)} examples: use fewer clients or fewer shards_per_client")
        shuffled = generator.permutation(len(label))
        pieces = np.array_split(shuffled[np.argsort(label[shuffled], kind="stable")], count)
        dealt = generator.permutation(count).reshape(clients, -1)
        return [np.concatenate([pieces[shard] for shard in mine]) for mine in dealt]

    return partition


def classes_per_client(clients: int, k: int, *, uneven: bool = False) -> Partitioner:
    """Every client holds exactly `k` distinct classes; a class is split equally among the clients that hold it.

    Client i takes the classes `perm[(i k + r) mod C]`, r = 0..k-1, of one random permutation, so that every class has
    N k / C holders. Random exchanges of one class between two clients, allowed where neither gets a class twice, then
    break up the repeated windows.

    Args:
      clients: N.
      k: classes of each client, at most C.
      uneven: where C does not divide N k, let the numbers of holders of two classes differ by one.

    Raises:
      ValueError: if k > C, C does not divide N k (unless `uneven`), N k < C, or a class has fewer examples than
        holders.

    Source: the splits of Arivazhagan et al., "Federated learning with personalization layers", 2019.
    """
    checks.each(Count, clients=clients, k=k)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        label, classes = _labels(dataset)
        _enough(len(label), clients, k)
        if k > classes:
            raise ValueError(f"k={k} classes a client, but {dataset.name} has {classes}: lower k")
        if clients * k < classes:
            raise ValueError(f"{clients} clients with k={k} cannot hold all {classes} classes: raise clients or k")
        if clients * k % classes and not uneven:
            raise ValueError(
                f"{classes} classes do not divide clients * k = {clients * k}: change one, or allow uneven=True"
            )
        order = generator.permutation(classes)
        holds = np.zeros((clients, classes), bool)
        for client in range(clients):
            holds[client, order[(client * k + np.arange(k)) % classes]] = True
        for _ in range(10 * clients):
            a, b = generator.integers(clients, size=2)
            gives, takes = (np.flatnonzero(holds[i] & ~holds[j]) for i, j in ((a, b), (b, a)))
            if len(gives):
                exchanged = [generator.choice(gives), generator.choice(takes)]
                holds[np.ix_([a, b], exchanged)] ^= True
        counts = np.zeros((classes, clients), int)
        for y in range(classes):
            holders, available = generator.permutation(np.flatnonzero(holds[:, y])), int((label == y).sum())
            if available < len(holders):
                raise ValueError(
                    f"class {y} has {available} examples for {len(holders)} holders: use fewer clients or a lower k"
                )
            counts[y, holders] = apportion(available, np.ones(len(holders)))
        return _deal(label, counts, generator)

    return partition


def dirichlet(
    clients: int,
    alpha: float,
    *,
    variant: Literal["capped", "raw", "balanced"] = "capped",
    min_size: int | None = None,
    max_tries: int = 1000,
) -> Partitioner:
    """For each class y the shares of the clients are `q_y ~ Dir(alpha 1_N)`.

    Variants give different data:
      capped: clients that already hold T / N get nothing of the classes that follow; drawn anew until everybody has
        `min_size` ("practical heterogeneity" of PFLlib, NIID-bench).
      raw: no control of sizes; clients may be empty.
      balanced: the shares are scaled until all clients hold T / N (Sinkhorn), to within one example; below
        alpha = 0.02, where scaling no longer ends, the largest shares are served first.

    Args:
      clients: N.
      alpha: concentration > 0. Near 0 a client has one class, at 100 it is close to IID.
      variant: see above.
      min_size: fewest examples of a client, for `capped`; PFLlib's `min(40, T / N / 2)` if None.
      max_tries: draws before giving up.

    Raises:
      ValueError: if no draw gives everybody `min_size`, or an argument is out of range.

    Source: Hsu et al., "Measuring the effects of non-identical data distribution", 2019 (per class as in Yurochkin et
    al., ICML 2019); the capped variant as in Li et al., "Federated learning on non-IID data silos", ICDE 2022.
    """
    checks.each(Count, clients=clients, max_tries=max_tries)
    checks.each(Alpha, alpha=alpha)
    if variant not in ("capped", "raw", "balanced"):
        raise ValueError(f"variant={variant!r}: choose 'capped', 'raw' or 'balanced'")
    checks.each(Size | None, min_size=min_size)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        label, classes = _labels(dataset)
        sizes, per_client = np.bincount(label, minlength=classes), len(label) / clients
        _enough(len(label), clients, 1)
        if variant == "raw":
            counts = _cuts(sizes, generator.dirichlet(np.full(clients, max(alpha, _SHARPEST)), classes))
        elif variant == "balanced":
            wanted = apportion(len(label), np.ones(clients))
            if alpha < _SHARP:
                counts = _largest_first(sizes, wanted, _log_shares((classes, clients), alpha, generator))
            else:
                counts = _balanced(sizes, generator.dirichlet(np.full(clients, alpha), classes), wanted)
        else:
            least = int(min(40, per_client / 2)) if min_size is None else min_size
            _enough(len(label), clients, least)
            counts = _capped(sizes, clients, alpha, least, max_tries, generator)
        return _deal(label, counts, generator)

    return partition


def dirichlet_client(
    clients: int,
    alpha: float,
    sizes: Sequence[int] | None = None,
    *,
    prior: Literal["uniform", "global"] = "uniform",
) -> Partitioner:
    """Every client draws label shares of its own; sizes are fixed.

    `q_i ~ Dir(alpha 1_C)` with the prior `uniform`, `q_i ~ Dir(alpha p)` with `global`, where p are the label shares of
    the whole data set: total concentration alpha C and alpha, so the same alpha is far more skewed with `global`.
    Labels are drawn from q_i without replacement; a class that is used up gets probability 0.

    Args:
      clients: N.
      alpha: concentration > 0.
      sizes: examples of each client, equal if None; what they do not ask for is left out.
      prior: see above.

    Raises:
      ValueError: if an argument is out of range or `sizes` ask for more than there is.

    Source: Hsu et al., "Measuring the effects of non-identical data distribution", 2019 (prior `global`).
    """
    checks.each(Count, clients=clients)
    checks.each(Alpha, alpha=alpha)
    if prior not in ("uniform", "global"):
        raise ValueError(f"prior={prior!r}: choose 'uniform' or 'global'")

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        label, classes = _labels(dataset)
        wanted = _sizes(sizes, clients, dataset)
        left = np.bincount(label, minlength=classes)
        concentration = max(alpha, _SHARPEST) * (np.ones(classes) if prior == "uniform" else left / left.sum())
        counts = np.zeros((classes, clients), int)
        for client in range(clients):
            shares = generator.dirichlet(concentration)
            while (missing := wanted[client] - counts[:, client].sum()) > 0:
                shares = _among(left > 0, shares, concentration, generator)
                drawn = np.minimum(generator.multinomial(missing, shares / shares.sum()), left)
                counts[:, client] += drawn
                left = left - drawn
        return _deal(label, counts, generator)

    return partition


def power_law(clients: int, exponent: float = 1.5, *, min_size: int = 2) -> Partitioner:
    """Sizes fall as `i^-exponent` (Zipf), in random order of clients; labels are IID.

    Raises:
      ValueError: if there are fewer than N * `min_size` examples.
    """
    checks.each(Count, clients=clients, min_size=min_size)
    checks.each(Moderate, exponent=exponent)
    return _by_share(
        clients, min_size, lambda generator: generator.permutation(np.arange(1.0, clients + 1) ** -exponent)
    )


def log_normal(clients: int, sigma: float = 1.0, *, min_size: int = 2) -> Partitioner:
    """Sizes are `min_size` and the rest in proportion to `exp(sigma z)`, z standard normal; labels are IID.

    Raises:
      ValueError: if there are fewer than N * `min_size` examples.
    """
    checks.each(Count, clients=clients, min_size=min_size)
    checks.each(Moderate, sigma=sigma)

    def shares(generator: np.random.Generator) -> np.ndarray:
        exponents = sigma * generator.standard_normal(clients)
        return np.exp(exponents - exponents.max())

    return _by_share(clients, min_size, shares)


def dirichlet_sizes(clients: int, alpha: float = 0.5, *, min_size: int = 2) -> Partitioner:
    """Sizes are `min_size` and the rest by shares `q ~ Dir(alpha 1_N)`; labels are IID.

    Raises:
      ValueError: if there are fewer than N * `min_size` examples, or an argument is out of range.

    Source: quantity skew of Li et al., "Federated learning on non-IID data silos", ICDE 2022.
    """
    checks.each(Count, clients=clients, min_size=min_size)
    checks.each(Alpha, alpha=alpha)
    concentration = np.full(clients, max(alpha, _SHARPEST))
    return _by_share(clients, min_size, lambda generator: generator.dirichlet(concentration))


def similar(clients: int, share: float) -> Partitioner:
    """A mixture: a `share` of all examples is dealt IID, the others sorted by label, neighbours to one client.

    0 gives most clients one class or two, 1 is IID.

    Raises:
      ValueError: if there are fewer examples than clients, or an argument is out of range.

    Source: s % similarity of Karimireddy et al., "SCAFFOLD", ICML 2020, section 7, after Hsu et al., 2019.
    """
    checks.each(Count, clients=clients)
    checks.each(Share, share=share)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        label, _ = _labels(dataset)
        _enough(len(label), clients, 1)
        order, sizes = generator.permutation(len(label)), apportion(len(label), np.ones(clients))
        alike = np.floor(share * sizes).astype(int)
        mixed, rest = np.split(order, [alike.sum()])
        rest = rest[np.argsort(label[rest], kind="stable")]
        holders = generator.permutation(clients)
        ranges = dict(zip(holders, _cut(rest, (sizes - alike)[holders]), strict=True))
        return [np.concatenate([part, ranges[client]]) for client, part in enumerate(_cut(mixed, alike))]

    return partition


def label_groups(clients: int, groups: int = 3, alpha: float = 0.4) -> Partitioner:
    """Classes in groups at random; the examples of each group are shared by `q_g ~ Dir(alpha 1_N)`, as a mixture.

    Args:
      clients: N, each a mixture of the groups.
      groups: at most C.
      alpha: concentration > 0.

    Raises:
      ValueError: if an argument is out of range.

    Source: Marfoq et al., "Federated multi-task learning under a mixture of distributions", NeurIPS 2021, appendix I.
    """
    checks.each(Count, clients=clients, groups=groups)
    checks.each(Alpha, alpha=alpha)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        label, classes = _labels(dataset)
        _enough(len(label), clients, 1)
        if groups > classes:
            raise ValueError(f"groups={groups} of {classes} classes: give at most {classes}")
        group = (generator.permutation(classes) % groups)[label]
        shares = generator.dirichlet(np.full(clients, max(alpha, _SHARPEST)), groups)
        return _deal(group, _cuts(np.bincount(group, minlength=groups), shares), generator)

    return partition


def domains(clients: int = 1) -> Partitioner:
    """Each group of the data (a domain, a hospital) in turn is cut at random into so many equal clients.

    Raises:
      ValueError: if the data set has no groups, or one is smaller than that.
    """
    checks.each(Count, clients=clients)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        found = natural()(replace(dataset, order=None), generator)
        if (least := min(map(len, found))) < clients:
            raise ValueError(f"clients={clients} of each group, and one has {least} examples: give at most as many")
        return [part for rows in found for part in np.array_split(generator.permutation(rows), clients)]

    return partition


def natural(clients: int | None = None, *, min_size: int = 1) -> Partitioner:
    """The groups that the data come with (writers, hospitals, roles), in sorted order.

    Args:
      clients: a random choice of so many groups, all if None; the other groups are left out.
      min_size: groups with fewer examples are left out.

    Raises:
      ValueError: if the data set has no groups, or too few.
    """
    checks.each(Count, clients=1 if clients is None else clients, min_size=min_size)

    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        if dataset.groups is None:
            raise ValueError(f"{dataset.name} has no natural clients: give groups, or use another partitioner")
        order = np.argsort(dataset.groups, kind="stable")
        _, starts = np.unique(dataset.groups[order], return_index=True)
        groups = [rows for rows in np.split(order, starts[1:]) if len(rows) >= min_size]
        if not groups or len(groups) < (clients or 1):
            raise ValueError(
                f"{dataset.name} has {len(groups)} groups of at least {min_size} examples, {clients or 1} are wanted: "
                "lower clients or min_size"
            )
        if clients is not None:
            groups = [groups[i] for i in sorted(generator.choice(len(groups), clients, replace=False))]
        return groups

    return partition


def by_index(rows: Held) -> Partitioner:
    """Lists of one's own, from a paper or another program: `rows[i]` are the examples of client i.

    Row numbers count the examples in the order in which they were given to `from_arrays`, or stand in the file that was
    loaded. Examples that no list names are left out.

    Args:
      rows: a list of row numbers for each client, or a dictionary of such lists by the clients' names.

    >>> from pfljax.data import federate, from_arrays
    >>> dataset = from_arrays(np.arange(4.0)[:, None], np.array([0, 1, 0, 1]))
    >>> data = federate(dataset, by_index({"north": [3, 0], "south": [2]}), test=0.0)
    >>> data.names, data.sizes().tolist()
    (('north', 'south'), [2, 1])
    """
    return lambda dataset, generator: rows


def apportion(total: int, weights: np.ndarray) -> np.ndarray:
    """Integers in proportion to `weights` that sum to `total`: floors, then one more for the largest remainders.

    >>> apportion(7, np.array([1.0, 1.0, 2.0])).tolist()
    [2, 2, 3]
    """
    exact = total * (weights / weights.sum())
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def _enough(examples: int, clients: int, least: int) -> None:
    if examples < clients * least:
        raise ValueError(
            f"{examples} examples are not {least} for each of {clients} clients: use fewer clients or a lower minimum"
        )


def _labels(dataset: Dataset) -> tuple[np.ndarray, int]:
    """[T] labels renumbered to the classes that occur, and how many these are."""
    if dataset.y.ndim != 1 or dataset.y.dtype.kind not in "iu" or not len(dataset):
        raise ValueError(
            f"{dataset.name} has labels {dataset.y.dtype}{list(dataset.y.shape)}, this partitioner needs one class for "
            "each example: use iid, power_law, log_normal or natural"
        )
    classes, label = np.unique(dataset.y, return_inverse=True)
    return label, len(classes)


def _sizes(sizes: Sequence[int] | None, clients: int, dataset: Dataset) -> np.ndarray:
    if sizes is None:
        _enough(len(dataset), clients, 1)
        return apportion(len(dataset), np.ones(clients))
    wanted = array(sizes, "sizes")
    if wanted.shape != (clients,) or wanted.dtype.kind not in "iu" or wanted.min() < 0 or wanted.sum() > len(dataset):
        raise ValueError(
            f"sizes={brief(sizes)}: give {clients} whole numbers of at least 0 that add up to at most {len(dataset)}"
        )
    return wanted


def _cut(rows: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    return np.split(rows[: sizes.sum()], np.cumsum(sizes)[:-1])


def _by_share(clients: int, min_size: int, shares: Callable[[np.random.Generator], np.ndarray]) -> Partitioner:
    @_in_canonical_order
    def partition(dataset: Dataset, generator: np.random.Generator) -> list[np.ndarray]:
        _enough(len(dataset), clients, min_size)
        sizes = min_size + apportion(len(dataset) - clients * min_size, shares(generator))
        return _cut(generator.permutation(len(dataset)), sizes)

    return partition


def _deal(label: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """`counts[y, i]` random examples of class y for client i."""
    parts = [_cut(generator.permutation(np.flatnonzero(label == y)), row) for y, row in enumerate(counts)]
    return [np.concatenate(mine) for mine in zip(*parts, strict=True)]


def _cuts(size: np.ndarray | int, shares: np.ndarray) -> np.ndarray:
    """Integers [..., N] whose partial sums are the floors of the partial sums of `size * shares`; all of `size`."""
    size = np.asarray(size)[..., None]
    ends = np.minimum(np.floor(np.cumsum(shares, -1) * size).astype(int), size)
    ends[..., -1:] = size
    return np.diff(ends, prepend=0)


def _capped(
    sizes: np.ndarray, clients: int, alpha: float, least: int, max_tries: int, generator: np.random.Generator
) -> np.ndarray:
    cap, concentration = sizes.sum() / clients, np.full(clients, max(alpha, _SHARPEST))
    for _ in range(max_tries):
        counts = np.zeros((len(sizes), clients), int)
        for y, drawn in enumerate(generator.dirichlet(concentration, len(sizes))):
            shares = _among(counts.sum(0) < cap, drawn, concentration, generator)
            counts[y] = _cuts(sizes[y], shares / shares.sum())
        if counts.sum(0).min() >= least:
            return counts
    raise ValueError(
        f"none of {max_tries} draws of dirichlet(clients={clients}, alpha={alpha}) gave every client {least} examples: "
        "use a larger alpha, fewer clients, a lower min_size, or variant='balanced'"
    )


def _among(
    open: np.ndarray, shares: np.ndarray, concentration: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """The shares of those that are open; where these underflow, drawn anew: parts of a Dirichlet are one themselves."""
    shares = np.where(open, shares, 0)
    if not shares.sum() > 0:
        shares[open] = generator.dirichlet(concentration[open])
    return shares


def _log_shares(shape: tuple[int, int], alpha: float, generator: np.random.Generator) -> np.ndarray:
    """`alpha log q_y` of `q_y ~ Dir(alpha 1_N)`, less the largest of each class [C, N], which does not underflow."""
    logs = alpha * np.log(generator.standard_gamma(1 + alpha, shape)) + np.log1p(-generator.random(shape))
    return logs - logs.max(1, keepdims=True)


def _largest_first(sizes: np.ndarray, wanted: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Integers with row sums `sizes` and column sums `wanted`: of the largest share as much as fits, then of the next.

    >>> _largest_first(np.array([3, 2]), np.array([2, 3]), np.array([[-1.0, 0.0], [-2.0, -3.0]])).tolist()
    [[0, 3], [2, 0]]
    """
    order = np.argsort(-shares, axis=None, kind="stable")
    counts, rows, columns = np.zeros(shares.shape, int), sizes.copy(), wanted.copy()
    for y, client in zip(*np.unravel_index(order, shares.shape), strict=True):
        counts[y, client] = amount = min(rows[y], columns[client])
        rows[y] -= amount
        columns[client] -= amount
    return counts


def _balanced(sizes: np.ndarray, shares: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Integers near the Sinkhorn scaling of `shares` [C, N], with row sums `sizes` and column sums `wanted`."""
    flow = shares + 1e-9
    for _ in range(200):
        flow *= wanted / flow.sum(0)
        flow *= (sizes / flow.sum(1))[:, None]
    counts = np.floor(flow).astype(int)
    while (excess := counts.sum(0) - wanted).max() > 0:
        client = int(excess.argmax())
        largest = counts[:, client].argmax()
        counts[largest, client] -= min(excess[client], counts[largest, client])
    rows, columns = sizes - counts.sum(1), wanted - counts.sum(0)
    for y, client in zip(*np.unravel_index(np.argsort(counts - flow, axis=None), counts.shape), strict=True):
        if rows[y] and columns[client]:
            counts[y, client] += 1
            rows[y] -= 1
            columns[client] -= 1
    for y in np.flatnonzero(rows):
        ends = np.minimum(np.cumsum(columns), rows[y])
        more = np.diff(ends, prepend=0)
        counts[y] += more
        columns = columns - more
    return counts


PARTITIONS: dict[str, Callable[..., Partitioner]] = {
    make.__name__: make
    for make in (
        by_file,
        classes_per_client,
        dirichlet,
        dirichlet_client,
        dirichlet_sizes,
        domains,
        iid,
        label_groups,
        log_normal,
        natural,
        power_law,
        shards,
        similar,
    )
} | PUBLISHED
"""Name -> maker of a partitioner from plain values."""
