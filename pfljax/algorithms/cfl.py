"""CFL: clusters split in two where clients pull apart although their mean has come to rest."""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.clustering import agglomerated, averaged, cosines, cut
from pfljax.federation.clusters import Clusters, Sight, assigning, clusters_of, heard, misfits
from pfljax.federation.table import repeated, replaced
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Rows, Task, Tree


class Splits(NamedTuple):
    """The tree of bipartitions: split s made cluster s + 1 of members of another one, of which the others stayed."""

    cluster: Array  # [K - 1] that was split
    models: Params  # [K - 1, ...] its model then
    moves: Array  # [K - 1] where in `Memory.then` are the last `w - w_i` of its members at that time
    stayed: Array  # [K - 1, N] who is in the first part
    left: Array  # [K - 1, N] who is in the second


class Memory(NamedTuple):
    """What the server of CFL remembers."""

    round: Array  # [] rounds done
    used: Array  # [] clusters that there are
    moves: Tree  # [N, ...] the last `w - w_i` of each client
    heard: Array  # [N] whether there is one
    splits: Splits
    then: Tree  # [K - 1, N, ...] moves as they were at a split; nothing where newcomers do not walk


Carry = tuple[Params, Array, Array, Splits]
"""Models [K, ...], whose is which [N], how many are used [], and how they came about."""


def cfl(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 8,
    eps1: Array | float = 0.4,
    eps2: Array | float = 1.6,
    warm_up: int = 20,
    gamma: Array | float = 0.0,
    floor: int = 1,
    linkage: Literal["optimal", "complete"] = "optimal",
    newcomers: Literal["walk", "loss"] = "walk",
) -> Algorithm:
    """FedAvg in each cluster c, from one cluster on; a cluster splits by the cosines of its members' updates.

    With `D_i` the update of client i, cluster c splits where `||mean_{i in c} D_i|| < eps1` and
    `max_{i in c} ||D_i|| > eps2`, into the two parts with the smallest largest cosine across,

        `alpha_cross = min_{c = c1 + c2} max_{i in c1, j in c2} <D_i, D_j> / (||D_i|| ||D_j||)`,

    if also `sqrt((1 - alpha_cross) / 2) > gamma`. Then `w_c <- w_c + mean_{i in c} D_i`, in each part.

    The splits are a tree. A newcomer walks from its root to a leaf: at a cluster c that was split it trains `w_c` as it
    was then, and goes to the part with the member whose `D_i` of that time is the most similar to its own,
    `argmax_{c' in {c1, c2}} max_{i in c'} <D_new, D_i> / (||D_new|| ||D_i||)`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      clusters: K at most, static.
      eps1: norm of the mean update below which a cluster is at rest, traced; 0 is FedAvg with equal weights.
      eps2: norm of an update above which a client is not at rest, traced.
      warm_up: rounds before the first split, static.
      gamma: see above, traced; 0 lets every split be that is one.
      floor: members that each part must have, static; no cluster of two splits.
      linkage: parts are the best there are ("optimal": the weakest edge of the maximum spanning tree of cosines is
        cut), or those of complete linkage, as in the authors' code ("complete"), static.
      newcomers: they "walk" the tree of splits, or take the model with the smallest "loss" on their training examples,
        static. Where nobody is new, "loss" spares the server K - 1 tables of updates, which each round carries along.

    Returns:
      An algorithm whose server holds the last updates [N, ...], and those at each split, [K - 1, N, ...], where
      newcomers walk; clients keep nothing and deploy the model of their cluster. Down and up: |params|.

    Raises:
      ValueError: if a count is below 1, `linkage` or `newcomers` is neither, or the reduction hands on anything but the
        uploads.

    Deviations from the source: means and norms count members equally, as in the authors' code; `alpha_cross` of
    complete linkage is that of its two parts. Clients outside the cohort count with their last update, and a cluster
    splits when all its members were heard.
    Source: Sattler et al., "Clustered Federated Learning: Model-Agnostic Distributed Multitask Optimization Under
    Privacy Constraints", IEEE Transactions on Neural Networks and Learning Systems 2020, Algorithms 1 and 4.

    Opposite updates whose mean is at rest: two clusters.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[-5.0, -4.0, 4.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(cfl(task, step, eps1=0.1, eps2=1.0, warm_up=3), task, data, rounds=50)
    {'w': [-4.5, -4.5, 4.5, 4.5]}
    """
    kind = "single" if linkage == "optimal" else linkage

    def begin(key: Array, num_clients: int) -> Clusters:
        w, nobody = task.init(key), jnp.zeros(num_clients, bool)
        moves = repeated(tree.scale(0, w.trainable), num_clients)
        first, most = jnp.asarray(0), max(clusters - 1, 1)
        splits = repeated(Splits(first, w, first, nobody, nobody), most)
        then = repeated(moves, most) if newcomers == "walk" else ()
        memory = Memory(first, jnp.asarray(1), moves, nobody, splits, then)
        return Clusters(repeated(w, clusters), jnp.zeros(num_clients, int), memory)

    def fires(members: Array, memory: Memory) -> Array:
        """Whether the cluster of `members` [N] shall split."""
        counts = members.astype(float)
        mean = jax.tree.map(lambda leaf: jnp.tensordot(counts.astype(leaf.dtype), leaf, 1), memory.moves)
        rests = jnp.sqrt(tree.squared_norm(mean)) < eps1 * jnp.sum(counts)
        pulls = jnp.max(jnp.where(members, jnp.sqrt(tree.row_products(memory.moves, memory.moves)), 0)) > eps2
        return rests & pulls & (jnp.sum(members) > 2) & jnp.all(memory.heard | ~members)

    def halved(similar: Array, members: Array, wanted: Array) -> tuple[Array, Array]:
        """The members of the second part [N], and whether there shall be one."""
        merges = jnp.where(wanted, jnp.sum(members) - 2, 0)
        second = cut(agglomerated(1 - similar, members, kind, merges), members, merges) == 1
        across = jnp.where((members & ~second)[:, None] & second[None], similar, -1)
        large = jnp.minimum(jnp.sum(second), jnp.sum(members & ~second)) >= floor
        return second, wanted & large & (jnp.sqrt(jnp.maximum(1 - jnp.max(across), 0) / 2) > gamma)

    def regroup(server: Clusters, cohort: Cohort, results: Params, key: Array) -> Clusters:
        models, assigned, known = server
        moves = replaced(known.moves, cohort, cohort.uploads.trainable)
        heard_of = replaced(known.heard, cohort, cohort.weights > 0)
        known = known._replace(round=known.round + 1, moves=moves, heard=heard_of)
        members = assigned[None] == jnp.arange(clusters)[:, None]
        wanted = jax.vmap(fires, (0, None))(members, known) & (known.round > warm_up)

        def split(c: Array, carry: Carry, similar: Array) -> Carry:
            models, assigned, used, splits = carry
            second, made = halved(similar, members[c], wanted[c] & (used < clusters))
            new, w = jnp.where(made, used, clusters), jax.tree.map(lambda leaf: leaf[c], models)
            one = Splits(c, w, known.used - 1, members[c] & ~second, second)
            assigned = jnp.where(made & second, used, assigned)
            return _put(models, new, w), assigned, jnp.where(made, used + 1, used), _put(splits, new - 1, one)

        def parted(carry: Carry) -> Carry:
            return jax.lax.fori_loop(0, clusters, partial(split, similar=cosines(moves, moves)), carry)

        carry = models, assigned, known.used, known.splits
        models, assigned, used, splits = jax.lax.cond(jnp.any(wanted), parted, lambda carry: carry, carry)
        then = known.then and _put(known.then, jnp.where(used > known.used, known.used, clusters) - 1, moves)
        server = Clusters(models, assigned, known._replace(used=used, splits=splits, then=then))
        return server._replace(models=averaged(models, results, clusters_of(server, cohort.ids), heard(cohort)))

    def walk(sight: Sight, data: ClientData, key: Array) -> Array:
        def pass_by(s: Array, c: Array) -> Array:
            split = jax.tree.map(lambda rows: rows[s], sight.memory.splits)
            here, w = split.cluster == c, split.models
            mine = data.on(Rows(data.start, jnp.where(here, data.size, 0)))
            move = tree.sub(w, local(task.loss, w, mine, jax.random.fold_in(key, 0))).trainable
            theirs = jax.tree.map(lambda rows: rows[split.moves], sight.memory.then)
            similar = cosines(repeated(move, 1), theirs)[0]
            first, second = (jnp.max(jnp.where(part, similar, -jnp.inf)) for part in (split.stayed, split.left))
            return jnp.where(here & (second > first), s + 1, c)

        new = sight.cluster < 0
        return jax.lax.fori_loop(0, jnp.where(new, sight.memory.used - 1, 0), pass_by, jnp.asarray(0))

    def least(sight: Sight, data: ClientData, key: Array) -> Array:
        losses = misfits(task, sight.models, data, key)
        return jnp.argmin(jnp.where(jnp.arange(clusters) < sight.memory.used, losses, jnp.inf))

    return assigning(task, local, begin, regroup, walk if newcomers == "walk" else least)


def _put(rows: Tree, place: Array, row: Tree) -> Tree:
    """Rows with another one at a place; as they are where there is no such place."""
    return jax.tree.map(lambda leaf, new: leaf.at[place].set(new, mode="drop"), rows, row)
