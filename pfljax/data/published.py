"""The partitions behind published tables, index for index those of the codes that made them.

Each is a partitioner that draws as its code does, from NumPy's and Python's older generators with a `seed` of its own:
the seed of `federate` and the canonical order of examples do not matter, the order of the files does. They split what a
client holds too, so `federate(..., test="given")` is how they are called. Quirks of the codes are kept, and named.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from pfljax import checks
from pfljax.checks import Count, Part, Positive, Seed, Size
from pfljax.data.dataset import Dataset
from pfljax.data.dealt import Partitioner, Parts

_TRIES = 2000
"""Draws after which a code that would go on for ever is given up."""

Lists = list[np.ndarray]


def niid_bench(
    clients: int = 10,
    partition: Literal["homo", "labeldir", "labels", "quantity", "mixed", "real"] = "labeldir",
    *,
    beta: float = 0.5,
    labels: int = 2,
    seed: int = 0,
) -> Partitioner:
    """NIID-Bench, and its descendants, such as Flower's: training examples are dealt, all test on the official set.

    Partitions, with the names of the code:
      homo: a permutation in equal parts.
      labeldir (`noniid-labeldir`): shares of each class from `Dir(beta 1_N)`, none for clients that hold T / N already;
        all over again until everybody has 10.
      labels (`noniid-#label<labels>`): client i has class i mod C and others at random; a class is split equally.
      quantity (`iid-diff-quantity`): sizes from `Dir(beta 1_N)`, until the smallest share is 10 examples.
      mixed: two classes a client, each class split between its two holders by `Dir(beta 1_2)`; for N = C.
      real: whole groups (writers), a permutation of them in equal parts.

    Noise that grows with the client, its `noise`, is `shifted(data, "noise", [0, std], spread="ramp")`: the same law,
    other numbers.

    Args:
      clients: N, `n_parties`.
      partition: see above.
      beta: concentration > 0.
      labels: classes of a client, for `labels`.
      seed: `init_seed`.

    Raises:
      ValueError: if an argument is out of range, or the code would not end.

    Source: Li et al., "Federated learning on non-IID data silos: an experimental study", ICDE 2022, and its code.
    """
    checks.each(Count, clients=clients, labels=labels)
    checks.each(Positive, beta=beta)
    checks.each(Seed, seed=seed)
    checks.each(Literal["homo", "labeldir", "labels", "quantity", "mixed", "real"], partition=partition)

    def deal(dataset: Dataset, generator: np.random.Generator) -> list[Parts]:
        draw, python, total = np.random.RandomState(seed), random.Random(seed), len(dataset)
        if partition == "homo":
            held = np.array_split(draw.permutation(total), clients)
        elif partition == "labeldir":
            held = _capped(dataset.y, _count(dataset), clients, beta, 10, draw)
            for rows in held:
                draw.shuffle(rows)
        elif partition == "quantity":
            order = draw.permutation(total)
            held = np.split(order, _ends(_shares_of_ten(total, clients, beta, draw), total))
        elif partition == "real":
            users = _users(dataset)
            blocks = np.array_split(draw.permutation(len(users)), clients)
            held = [np.concatenate([users[user] for user in block]) for block in blocks]
        else:
            classes = _classes(dataset)
            own = _two_each if partition == "mixed" else _some_each
            held = own(classes, clients, labels, beta, draw, python)
        official = _official(dataset)
        return [Parts(rows, official) for rows in held]

    return deal


def pfllib(
    clients: int = 20,
    partition: Literal["dir", "pat", "exdir", "iid"] = "dir",
    *,
    alpha: float = 0.1,
    classes: int = 2,
    balance: bool = False,
    batch_size: int = 10,
    train: float = 0.75,
    seed: int = 1,
) -> Partitioner:
    """PFLlib: training and official test examples are merged, dealt, and a quarter of each client's is its test.

    Partitions, with the names of the code:
      dir ("practical"): as `labeldir` of `niid_bench`, until everybody has `min(batch_size / (1 - train), T / N / 2)`.
      pat ("pathological"): class by class, the first `ceil(N / C * classes)` clients that have room for one take it, in
        the order of the file; sizes are equal (`balance`), or drawn from a tenth of the equal size on, and the rest.
      exdir: `classes` random classes a client, then `dir` among the holders of each; what rounding leaves of a class
        goes to its last holder. Their alpha for it is 100.
      iid: `pat` with all classes, as the code does it.

    Args:
      clients: N, `num_clients`.
      partition: see above.
      alpha: concentration > 0.
      classes: of a client, `class_per_client`: theirs is 2 for ten classes, 10 for a hundred.
      balance: equal sizes, for `pat` and `iid`.
      batch_size, train: constants of `dataset_utils.py`.
      seed: 1 in all their generators.

    Raises:
      ValueError: if an argument is out of range, or the code would fail or not end.

    Source: Zhang et al., "PFLlib: a beginner-friendly and comprehensive personalized federated learning library and
    benchmark", JMLR 2025, and `dataset/utils/dataset_utils.py` of its code.
    """
    checks.each(Count, clients=clients, classes=classes, batch_size=batch_size)
    checks.each(Positive, alpha=alpha, train=train)
    checks.each(Part, train=train)
    checks.each(Seed, seed=seed)
    checks.each(Literal["dir", "pat", "exdir", "iid"], partition=partition)

    def deal(dataset: Dataset, generator: np.random.Generator) -> list[Parts]:
        draw, label = np.random.RandomState(seed), _merged_labels(dataset)
        count = len(np.unique(label))
        least = int(min(batch_size / (1 - train), len(label) / clients / 2))
        if partition == "dir":
            held = _capped(label, count, clients, alpha, least, draw)
        elif partition == "exdir":
            held = _among_holders(label, count, clients, classes, alpha, draw)
        else:
            own = count if partition == "iid" else classes
            held = _in_turn(label, count, clients, own, balance, least, draw)
        return [_shuffled(rows, train, draw) for rows in held]

    return deal


def pfedme(
    version: Literal["2021", "2020", "disjoint"] = "2021", *, clients: int = 20, classes: int = 2, seed: int = 1
) -> Partitioner:
    """pFedMe's MNIST: client i has the classes i, ..., i + `classes` - 1 (mod C), in parts of very different sizes.

    A class of n examples with h holders is cut by `u ~ U{n // (h + 1), ..., n // 2 - 1}`, h - 1 times, each of what is
    left. Sizes go to the clients class after class, part after part, not to those who hold the class.

    Versions:
      2021: the code as it stands. It counts holders by `(20 i + j) mod 10`, which is 0 or 1: two classes are cut into
        20 parts, whose sizes go to all, and 14,780 of the 70,000 images of MNIST are handed out.
      2020: the code as it stood when the paper was written, by the sizes that the paper states: 1,165 to 3,834 training
        examples. A client takes the first examples of its classes, all but the first one if it is not the first to do
        so, or if an array used again says so: **clients are tested on what others train on**. It also labelled one
        example of most clients wrongly, where their two classes meet; here that keeps its label.
      disjoint: what is meant: each part of a class goes to one of its holders, and all examples are dealt.

    Args:
      version: see above.
      clients: N, a multiple of C.
      classes: of each client.
      seed: of both generators.

    Raises:
      ValueError: if an argument is out of range, or sizes run out.

    Source: Dinh et al., "Personalized federated learning with Moreau envelopes", NeurIPS 2020, and the file
    `data/Mnist/generate_niid_20users.py` of its code, before and after June 2021.
    """
    checks.each(Literal["2021", "2020", "disjoint"], version=version)
    checks.each(Count, clients=clients, classes=classes)
    checks.each(Seed, seed=seed)

    def deal(dataset: Dataset, generator: np.random.Generator) -> list[Parts]:
        label = _merged_labels(dataset)
        own = [np.flatnonzero(label == y) for y in range(_count(dataset))]
        count, draw, python = len(own), np.random.RandomState(seed), random.Random(seed)
        if clients % count or classes > count:
            raise ValueError(f"clients={clients} with {classes} of {count} classes: give a multiple of {count} clients")
        step = clients if version == "2021" else 1
        counted = [(client * step + j) % count for client in range(clients) for j in range(classes)]
        holders = np.unique(counted, return_counts=True)[1]
        cut = [_pieces(len(rows), h, draw) for rows, h in zip(own, holders, strict=False)]
        sizes, used, parts = iter([part[turn] for turn in range(len(cut[0])) for part in cut]), [0] * count, []
        if version == "2020":
            used = (label[:count] == count - 1).astype(int).tolist()
        turns = [iter(mine) for mine in cut]
        for client in range(clients):
            rows: list[int] = []
            for y in ((client + j) % count for j in range(classes)):
                size = next(turns[y] if version == "disjoint" else sizes)
                if version == "2020":
                    rows += own[y][used[y] : size].tolist()
                    used[y] = 1
                elif used[y] + size < len(own[y]) or version == "disjoint":
                    rows += own[y][used[y] : used[y] + size].tolist()
                    used[y] += size
            python.shuffle(rows)
            kept = int(0.75 * len(rows))
            parts.append(Parts(rows[:kept], rows[kept:]))
        return parts

    return deal


def ifca(clients: int = 2400, clusters: int = 4, *, test_clients: int = 400, seed: int = 0) -> Partitioner:
    """IFCA's rotated images: every cluster has all of them, cut into equal clients; N / K clients of cluster 0 first.

    The turns themselves are `shifted(data, "rotation", [0, 90, 180, 270], spread="blocks")`, for two clusters
    `[0, 180]`. Their test clients hold the official test examples in the order of the file and choose a cluster by the
    loss on what they are tested on; here the i-th client of a cluster is tested on the examples of its test client
    i mod M / K, and chooses by what it trains on.

    Args:
      clients: N, `m`: 1200, 2400 or 4800 in the paper.
      clusters: K, `p`.
      test_clients: M, `m_test`: 200, 400 or 800.
      seed: `data_seed`.

    Raises:
      ValueError: if counts do not divide each other, or there is no official test set.

    Source: Ghosh et al., "An efficient framework for clustered federated learning", NeurIPS 2020, section 6.2, and
    `mnist/train_cluster_mnist.py` of its code.
    """
    checks.each(Count, clients=clients, clusters=clusters, test_clients=test_clients)
    checks.each(Seed, seed=seed)

    def deal(dataset: Dataset, generator: np.random.Generator) -> list[Parts]:
        official = _official(dataset)
        for name, total, wanted in (("clients", len(dataset), clients), ("test_clients", len(official), test_clients)):
            if wanted % clusters or not total or total % (wanted // clusters):
                raise ValueError(
                    f"{name}={wanted} of {clusters} clusters do not share {total} examples of {dataset.name} equally: "
                    f"give a multiple of {clusters} whose part divides them"
                )
        draw, own = np.random.RandomState(seed), clients // clusters
        tests = np.split(official, test_clients // clusters)
        cut = [np.split(draw.permutation(len(dataset)), own) for _ in range(clusters)]
        return [Parts(rows, tests[i % len(tests)]) for mine in cut for i, rows in enumerate(mine)]

    return deal


def leaf(
    fraction: float = 0.1,
    *,
    sampling: Literal["niid", "iid"] = "niid",
    clients: float = 0.01,
    min_samples: int = 10,
    train: float = 0.9,
    chronological: bool = False,
    sampling_seed: int = 0,
    split_seed: int = 0,
) -> Partitioner:
    """LEAF's `preprocess.sh -s niid|iid --sf --k -t sample --tf`: users are sampled, small ones left out, all split.

    Sampling `niid` takes whole users of a random order until a part of all examples is reached, of the last one as many
    as are missing, in random order; `iid` deals a part of the examples to new users. A user's training examples come
    first in time for Shakespeare (`chronological`), with the 79 after them left out, and at random elsewhere.

    Args:
      fraction: of the examples, `--sf`; 1 keeps all.
      sampling: see above.
      clients: new users as a part of the old, for `iid`, `--iu`.
      min_samples: users with fewer are left out, `--k`.
      train: part of each user's examples, `--tf`.
      chronological: as for Shakespeare.
      sampling_seed, split_seed: `--smplseed` and `--spltseed`.

    Raises:
      ValueError: if the data set has no groups, an argument is out of range, or nobody is left.

    Deviations from the code: that reads several files one after the other, in the order in which the disk lists them,
    and takes a part of each; this is for one file. Source: Caldas et al., "LEAF: a benchmark for federated settings",
    2018, and `data/utils` of its code.
    """
    checks.each(Positive, fraction=fraction, clients=clients, train=train)
    checks.each(Part, train=train)
    checks.each(checks.Share, fraction=fraction, clients=clients)
    checks.each(Size, min_samples=min_samples)
    checks.each(bool, chronological=chronological)
    checks.each(Seed, sampling_seed=sampling_seed, split_seed=split_seed)
    checks.each(Literal["niid", "iid"], sampling=sampling)

    def deal(dataset: Dataset, generator: np.random.Generator) -> dict[str, Parts]:
        held = _sampled(dataset, fraction, clients if sampling == "iid" else None, random.Random(sampling_seed))
        split, parts = random.Random(split_seed), {}
        for name, rows in held.items():
            if len(rows) < max(min_samples, 2):
                continue
            kept = 1 if len(rows) == 2 else max(1, int(train * len(rows)))
            chosen = np.zeros(len(rows), bool)
            chosen[range(kept) if chronological else split.sample(range(len(rows)), kept)] = True
            last = kept + 79 if chronological else 0
            tested = rows[last:][~chosen[last:]]
            if len(tested):
                parts[name] = Parts(rows[chosen], tested)
        if not parts:
            raise ValueError(f"no user of {dataset.name} has {max(min_samples, 2)} examples: lower min_samples")
        return parts

    return deal


def flamby(train: float = 0.66, *, seed: int = 43) -> Partitioner:
    """FLamby's Fed-Heart-Disease: each centre, in sorted order, is split in proportion to its classes.

    A centre with a class of at most two examples is split at random instead.

    Args:
      train: part of each centre's examples.
      seed: of scikit-learn's `train_test_split`.

    Raises:
      ValueError: if the data set has no groups, or a centre is too small.
      ImportError: without scikit-learn.

    Source: Ogier du Terrail et al., "FLamby", NeurIPS 2022, and `fed_heart_disease/dataset.py` of its code.
    """
    checks.each(Positive, train=train)
    checks.each(Part, train=train)
    checks.each(Seed, seed=seed)

    def deal(dataset: Dataset, generator: np.random.Generator) -> dict[str, Parts]:
        users, groups = _users(dataset), _groups(dataset)
        parts = {}
        for rows in sorted(users, key=lambda rows: groups[rows[0]]):
            kept, tested = stratified(dataset.y[rows], train, seed=seed)
            parts[str(groups[rows[0]])] = Parts(rows[np.sort(kept)], rows[np.sort(tested)])
        return parts

    return deal


def stratified(y: np.ndarray, train: float = 0.66, *, seed: int = 43) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a centre train and which test, with labels y [n]; see `flamby`.

    Raises:
      ImportError: without scikit-learn.
    """
    try:
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError("the split of flamby is scikit-learn's: pip install 'pfljax[demo]'") from error
    counts = np.unique(y, return_counts=True)[1]
    strata = y if len(counts) > 1 and counts.min() > 2 else None
    kept, tested = train_test_split(
        np.arange(len(y)), train_size=train, test_size=1 - train, random_state=seed, stratify=strata
    )
    return np.asarray(kept), np.asarray(tested)


def _groups(dataset: Dataset) -> np.ndarray:
    if dataset.groups is None:
        raise ValueError(f"{dataset.name} has no natural clients: give groups, or use another partitioner")
    return dataset.groups


def _users(dataset: Dataset) -> Lists:
    """The rows of each group, in the order in which groups first appear."""
    _, first, places = np.unique(_groups(dataset), return_index=True, return_inverse=True)
    order = np.argsort(places, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(places))[:-1])
    return [rows[user] for user in np.argsort(first)]


def _count(dataset: Dataset) -> int:
    if dataset.num_classes is None or dataset.y.ndim != 1:
        raise ValueError(f"{dataset.name} has not one class for each example, which this partition deals by: use iid")
    return dataset.num_classes


def _classes(dataset: Dataset) -> Lists:
    return [np.flatnonzero(dataset.y == y) for y in range(_count(dataset))]


def _official(dataset: Dataset) -> np.ndarray:
    """The rows of the official test set, after the others."""
    return len(dataset) + np.arange(0 if dataset.test is None else len(dataset.test))


def _merged_labels(dataset: Dataset) -> np.ndarray:
    _count(dataset)
    return dataset.y if dataset.test is None else np.concatenate([dataset.y, dataset.test.y])


def _tries(what: str) -> Iterator[int]:
    """So many draws; then what was drawn in vain is an error."""
    yield from range(_TRIES)
    raise ValueError(f"none of {_TRIES} draws gave {what}, and the published code would go on for ever: " + _REMEDY)


_REMEDY = "use fewer clients, or a larger concentration"


def _ends(shares: np.ndarray, total: int) -> np.ndarray:
    return (np.cumsum(shares) * total).astype(int)[:-1]


def _capped(
    label: np.ndarray, count: int, clients: int, alpha: float, least: int, draw: np.random.RandomState,
    holders: Sequence[Sequence[int]] | None = None,
) -> Lists:  # fmt: skip
    """Shares of each class from a Dirichlet; clients with an equal share of all get no more; `least` for everybody."""
    allowed = np.ones((count, clients), bool)
    if holders is not None:
        allowed[:] = [np.isin(np.arange(clients), mine) for mine in holders]
    _enough(len(label), clients, least)
    for _ in _tries(f"everybody {least} examples"):
        parts: list[Lists] = [[] for _ in range(clients)]
        sizes = np.zeros(clients, int)
        for y in range(count):
            rows = np.flatnonzero(label == y)
            draw.shuffle(rows)
            shares = draw.dirichlet(np.repeat(alpha, clients)) * ((sizes < len(label) / clients) & allowed[y])
            if not shares.sum() > 0:
                raise ValueError(f"alpha={alpha} leaves a class without a holder, where the code fails: {_REMEDY}")
            ends = _ends(shares / shares.sum(), len(rows))
            if holders is not None and ends[-1] != len(rows):
                ends[holders[y][-1] :] = len(rows)
            for mine, part in zip(parts, np.split(rows, ends), strict=True):
                mine.append(part)
            sizes = np.array([sum(map(len, mine)) for mine in parts])
        if sizes.min() >= least:
            break
    return [np.concatenate(mine) for mine in parts]


def _enough(total: int, clients: int, least: int) -> None:
    if total < clients * least:
        raise ValueError(f"{total} examples are not {least} for each of {clients} clients: use fewer clients")


def _shares_of_ten(total: int, clients: int, beta: float, draw: np.random.RandomState) -> np.ndarray:
    _enough(total, clients, 10)
    for _ in _tries("everybody 10 examples"):
        shares = draw.dirichlet(np.repeat(beta, clients))
        shares = shares / shares.sum()
        if (shares * total).min() >= 10:
            break
    return shares


def _some_each(
    classes: Lists, clients: int, labels: int, beta: float, draw: np.random.RandomState, python: random.Random
) -> Lists:
    """`labels` classes of each client, its own number among them."""
    count = len(classes)
    if labels > count:
        raise ValueError(f"labels={labels} of {count} classes: give at most {count}")
    if labels == count == 10:
        has = [list(range(count))] * clients
    else:
        has = [[client % count] for client in range(clients)]
        for mine in has:
            while len(mine) < labels:
                if (y := python.randint(0, count - 1)) not in mine:
                    mine.append(y)
    holders = [[client for client in range(clients) if y in has[client]] for y in range(count)]
    if not all(holders):
        raise ValueError(f"no client has class {holders.index([])}, where the published code fails: use more clients")

    def cut(rows: np.ndarray, among: int) -> Lists:
        return np.array_split(rows, among)

    return _dealt(classes, holders, clients, cut, draw)


def _two_each(
    classes: Lists, clients: int, labels: int, beta: float, draw: np.random.RandomState, python: random.Random
) -> Lists:
    """Two classes of each client, two holders of each class, which share it unequally."""
    count = len(classes)
    if clients != count:
        raise ValueError(f"clients={clients} of partition='mixed': the code needs one for each of {count} classes")
    has, taken = [[client] for client in range(clients)], [1] * count
    for mine in has:
        for _ in _tries("each client a second class"):
            y = python.randint(0, count - 1)
            if y not in mine and taken[y] < 2:
                break
        mine.append(y)
        taken[y] += 1
    _shares_of_ten(sum(map(len, classes)), clients, beta, draw)  # drawn by the code, and not used
    holders = [[client for client in range(clients) if y in has[client]] for y in range(count)]

    def cut(rows: np.ndarray, among: int) -> Lists:
        return np.split(rows, _ends(draw.dirichlet(np.repeat(beta, among)), len(rows)))

    return _dealt(classes, holders, clients, cut, draw)


def _dealt(
    classes: Lists,
    holders: Sequence[Sequence[int]],
    clients: int,
    cut: Callable[[np.ndarray, int], Lists],
    draw: np.random.RandomState,
) -> Lists:
    """Each class, shuffled and cut, to its holders in order."""
    parts: list[Lists] = [[np.zeros(0, int)] for _ in range(clients)]
    for rows, among in zip(classes, holders, strict=True):
        shuffled = rows.copy()
        draw.shuffle(shuffled)
        for client, part in zip(among, cut(shuffled, len(among)), strict=True):
            parts[client].append(part)
    return [np.concatenate(mine) for mine in parts]


def _in_turn(
    label: np.ndarray, count: int, clients: int, own: int, balance: bool, least: int, draw: np.random.RandomState
) -> Lists:
    """Class by class to the first clients that have room for one."""
    room, wanted = np.full(clients, own), int(np.ceil(clients / count * own))
    parts: list[Lists] = [[] for _ in range(clients)]
    for y in range(count):
        rows, takers = np.flatnonzero(label == y), np.flatnonzero(room > 0)[:wanted]
        if not len(takers):
            break
        each = len(rows) / len(takers)
        if balance:
            sizes = [int(each)] * (len(takers) - 1)
        elif len(takers) == 1:
            sizes = []
        else:
            low, high = int(max(each / 10, least / count)), int(each)
            if low >= high:
                raise ValueError(f"class {y} has {len(rows)} examples for {len(takers)} clients: use fewer clients")
            sizes = draw.randint(low, high, len(takers) - 1).tolist()
        for client, part in zip(takers, np.split(rows, np.cumsum(sizes, dtype=int)), strict=True):
            parts[client].append(part)
            room[client] -= 1
    if not all(parts):
        raise ValueError(f"client {parts.index([])} gets no class, where the published code fails: use fewer clients")
    return [np.concatenate(mine) for mine in parts]


def _among_holders(
    label: np.ndarray, count: int, clients: int, own: int, alpha: float, draw: np.random.RandomState
) -> Lists:
    """`own` random classes of each client, then a Dirichlet among the holders of a class."""
    if own > count:
        raise ValueError(f"classes={own} of {count}: give at most {count}")
    for _ in _tries("each class enough holders"):
        has = [draw.choice(count, own, replace=False) for _ in range(clients)]
        holders = [[client for client in range(clients) if y in has[client]] for y in range(count)]
        if min(map(len, holders)) >= max(own * clients // count // 2, 1):
            break
    held = _capped(label, count, clients, alpha, 10, draw, holders)
    for rows in held:
        draw.shuffle(rows)
    return held


def _shuffled(rows: np.ndarray, train: float, draw: np.random.RandomState) -> Parts:
    """Scikit-learn's `train_test_split` of the rows."""
    kept = int(np.floor(train * len(rows)))
    if not 0 < kept < len(rows):
        raise ValueError(f"a client of {len(rows)} examples cannot be split with train={train}: use fewer clients")
    order = draw.permutation(len(rows))
    return Parts(rows[order[len(rows) - kept :]], rows[order[: len(rows) - kept]])


def _pieces(total: int, count: int, draw: np.random.RandomState) -> list[int]:
    sizes = []
    for _ in range(count - 1):
        low, high = total // (count + 1), total // 2
        if low >= high:
            raise ValueError(f"{total} examples are too few for {count} holders of a class: use fewer clients")
        sizes.append(int(draw.randint(low, high)))
        total -= sizes[-1]
    return [*sizes, total]


def _sampled(dataset: Dataset, fraction: float, new: float | None, python: random.Random) -> dict[str, np.ndarray]:
    """The rows of the users that a sample of the data set has."""
    users, groups, wanted = _users(dataset), _groups(dataset), int(fraction * len(dataset))
    if new is not None:
        rows = np.concatenate(users)[python.sample(range(len(dataset)), wanted)]
        count = max(1, round(new * len(users)))
        larger, size = wanted % count, wanted // count
        ends = np.cumsum([size] * (count - larger) + [size + 1] * larger)[:-1]
        return {str(user): part for user, part in enumerate(np.split(rows, ends))}
    order, held = list(range(len(users))), {}
    python.shuffle(order)
    for user in order:
        missing = wanted - sum(map(len, held.values()))
        if missing <= 0:
            break
        rows = users[user]
        kept = rows if len(rows) <= missing else rows[python.sample(range(missing), missing)]
        held[str(groups[rows[0]])] = kept
    return held


PUBLISHED: dict[str, Any] = {make.__name__: make for make in (flamby, ifca, leaf, niid_bench, pfedme, pfllib)}
"""Name -> maker of the partitioner of a published code."""
