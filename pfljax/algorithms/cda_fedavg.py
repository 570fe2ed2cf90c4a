"""CDA-FedAvg: clients watch for drift, and train only while there is something new to learn."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.federation.server import ServerOptimizer, by_own_weights
from pfljax.federation.skeletons import accompanied
from pfljax.learning import detectors, metrics
from pfljax.learning.plans import gather
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Reply, Task, Tree

_BATCH = 32
"""Examples that are looked at at once."""


class Watch(NamedTuple):
    """What a client keeps."""

    params: Params  # v_i
    trained: Array  # [] whether that is newer than what it received
    owed: Array  # [] r_i, rounds in which it has yet to train
    detector: Tree  # the state of D_i


def cda_fedavg(
    task: Task,
    local: LocalSolver,
    *,
    training_rounds: int = 10,
    detector: Literal["page_hinkley", "cusum", "ddm", "adwin"] = "page_hinkley",
    threshold: Array | float | None = None,
    signal: Literal["loss", "error"] = "loss",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg in which a client trains for R rounds, and again for R rounds after each drift that it detects.

    In a round client i receives w and holds examples s, its short-term memory. With l the loss or the error:

    - `D_i` looks at `l(w; s)`, one s after the other; if it finds a drift, `r_i <- R`;
    - if `r_i > 0`: `v_i <- local(f_i, w)`, `r_i <- r_i - 1`, and `w - v_i` is sent; else nothing is.

    `w <- w - sum n_i (w - v_i) / sum n_i`, both sums over the clients that sent. A client that trained in its last
    round deploys `v_i`, any other w.

    Args:
      task: the model and its loss; l is what it measures as `loss`, or one less its `accuracy`.
      local: solver of a client's round.
      training_rounds: R, static. With R as large as the run, and no drift, the server is that of FedAvg.
      detector: a kind of D_i, of `learning.detectors`, static.
      threshold: of the detector, > 0, traced; its own default if None.
      signal: what D_i looks at, static; `ddm` and `adwin` are for numbers from 0 to 1.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i` (|params|) and the state of a detector, and upload |params| and whether
      they train, which is counted where nothing is sent, too; they report `drift`, 1 where one was found. A newcomer
      onboards by its half of a round.

    Raises:
      ValueError: if there is no such detector or signal, or the task does not measure it.

    Deviations from the source: read from surveys and public descriptions alone. The source detects changes of the
    model's confidence by a test of its own (CDT), and trains on a long-term memory of examples of all concepts as well.
    Source: Casado et al., "Concept Drift Detection and Adaptation for Federated and Continual Learning", Multimedia
    Tools and Applications 2022.

    The center moves from 0 to 8 in round 20, long after the client has stopped to train:

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.data import drifting
    >>> from pfljax.learning import local, plans
    >>> (task, old), (_, new) = (quadratics.problem(w=[center]) for center in (0.0, 8.0))
    >>> half = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> method = cda_fedavg(task, half, training_rounds=2, threshold=1.0)
    >>> quadratics.deployed(method, task, drifting([old, new], changes=[20]), rounds=30)
    {'w': [6.0]}
    """
    make = detectors.KINDS[checks.choice(detector, detectors.KINDS, "detector")]
    watch = make() if threshold is None else make(threshold)
    measured = {metric.name: metric for metric in task.metrics}
    name = {"loss": "loss", "error": "accuracy"}[checks.choice(signal, ("loss", "error"), "signal")]
    if name not in measured:
        raise ValueError(
            f"signal={signal!r}: the task does not measure {name}, but {', '.join(measured)}: choose another"
        )

    def looked(w: Params, state: Tree, data: ClientData) -> tuple[Tree, Array]:
        """The detector after all examples, and whether it has found a drift."""

        def batch(number: Array, so_far: tuple[Tree, Array]) -> tuple[Tree, Array]:
            rows = gather(data, number * _BATCH + jnp.arange(_BATCH, dtype=number.dtype))
            seen = metrics.apiece(measured[name], task.predict(w, rows.x), rows.y)
            state, alarm = watch.over(so_far[0], seen if signal == "loss" else 1 - seen, rows.mask)
            return state, so_far[1] | alarm

        return jax.lax.fori_loop(0, -(-data.size // _BATCH), batch, (state, jnp.asarray(False)))

    def client_update(w: Params, own: Watch, data: ClientData, key: Array) -> Reply:
        state, alarm = looked(w, own.detector, data)
        owed = jnp.where(alarm, training_rounds, own.owed)
        trains = owed > 0
        working = data._replace(work=jnp.where(trains, data.work, 0))
        v = tree.where(trains, local(task.loss, w, working, jax.random.fold_in(key, 0)), w)
        own = Watch(v, trains, jnp.maximum(owed - 1, 0), state)
        return Reply((trains.astype(float), tree.sub(w, v)), own, {"drift": alarm.astype(float)})

    def start(w: Params) -> Watch:
        return Watch(w, jnp.asarray(False), jnp.asarray(training_rounds), watch.init())

    def deploy(w: Params, own: Watch) -> Params:
        return tree.where(own.trained, own.params, w)

    algorithm = accompanied(task, client_update, deploy, start, server=server)
    return algorithm._replace(server_update=by_own_weights(server))
