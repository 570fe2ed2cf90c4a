"""L2GD and L2SGD+: clients keep models of their own, and a coin says when they step towards their mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.skeletons import accompanied, announced
from pfljax.learning.local import descent, mean_gradient
from pfljax.learning.losses import gradient
from pfljax.learning.parts import joined, parted
from pfljax.learning.plans import lasting
from pfljax.types import Algorithm, Array, Batch, ClientData, Params, Plan, Reply, Task, Tree


class Tosses(NamedTuple):
    """How the coin falls between two communications."""

    heads: Array  # [] steps towards the mean, at least 1
    tails: Array  # [] steps of descent after them, at least 1


class Controlled(NamedTuple):
    """What a client of L2SGD+ keeps."""

    x: Params
    G: Tree  # its gradient where the last steps of descent began
    psi: Tree  # lam (x - xbar) before the last step towards the mean


def l2gd(
    task: Task, plan: Plan, *, lr: Array | float = 0.05, lam: Array | float = 1.0, p: Array | float = 0.1
) -> Algorithm:
    """Descends `F(x) = 1/n sum_i f_i(x_i) + lam/(2n) sum_i ||x_i - xbar||^2`, `xbar = 1/n sum_i x_i`, by a coin.

    Before each step the coin is tossed once for all clients:

    - tails, with probability 1 - p: `x_i <- x_i - lr/(1 - p) grad f_i(x_i; batch)`;
    - heads, with probability p: `x_i <- x_i - lr lam/p (x_i - xbar)`.

    Steps towards the mean leave it where it is, so only one after a step of descent needs a communication: `p (1 - p)`
    of all steps on average. A round is what lies between two of them: `heads` steps towards the mean, then `tails` of
    descent. The server tosses for all, and both numbers travel in the download.

    Args:
      task: the model and its loss.
      plan: the minibatches; the coin says how many. With all examples in each it is L2GD, otherwise its stochastic
        form L2SGD.
      lr: the paper's `alpha / n`, traced; `lr lam <= p` keeps the steps towards the mean from leaping over it.
      lam: strength of the pull, >= 0, traced; 0 is local-only.
      p: chance of a step towards the mean, in (0, 1), traced. With `lr lam = p` it reaches the mean, and this is FedAvg
        with a random number of local steps, 1/p on average.

    Returns:
      An algorithm whose clients keep and deploy `x_i` (|params|) and upload |params|; down: |params| + 2. A newcomer
      starts at `xbar`, which rests while it onboards.

    Clients count equally, as in the paper.
    Deviations from the source: all clients take part there; here `xbar` is the mean of those that do in a round.
    Running statistics are averaged with the weights.
    Source: Hanzely and Richtarik, "Federated Learning of a Mixture of Global and Local Models", 2020, Algorithm 1.

    With `lr lam = p`, from the mean 4 half of the way to each client's center, as often as the coin said, here twice:

    >>> from pfljax.learning import plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> method = l2gd(task, plans.full_batch(1, 1), lr=0.25, lam=2.0, p=0.5)
    >>> quadratics.deployed(method, task, data, rounds=30)
    {'w': [1.0, 7.0]}
    """

    def client_update(download: tuple[Params, Tosses], x: Params, data: ClientData, key: Array) -> Reply:
        xbar, coin = download
        near = tree.mix((1 - lr * lam / p) ** coin.heads.astype(float), x, xbar)
        descend = descent(optax.sgd(lr / (1 - p)), lasting(coin.tails, plan))
        x = descend(task.loss, near, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(xbar, x), x)

    algorithm = accompanied(task, client_update, lambda download, x: x, reduce=uniform(mean))
    return _tossing(algorithm, p)


def l2sgd_plus(
    task: Task, plan: Plan, *, lr: Array | float = 0.05, lam: Array | float = 1.0, p: Array | float = 0.1
) -> Algorithm:
    """L2GD with control variates, so that steps of one size, on minibatches, end at the minimum of `F`.

    With `G_i = grad f_i(r_i)` at a point of reference and `psi_i` an earlier `lam (x_i - xbar)`, before each step

    - tails, with probability 1 - p: `x_i <- x_i - lr ((grad f_i(x_i; batch) - grad f_i(r_i; batch)) / (1 - p)
      + G_i + psi_i)`;
    - heads, with probability p: `x_i <- x_i - lr (lam/p (x_i - xbar) - (1/p - 1) psi_i + G_i)`, and
      `psi_i <- lam (x_i - xbar)` of the `x_i` before it.

    On average over coin and batch each is a step along the gradient of `n F`. A round is as in L2GD; in its steps
    towards the mean `xbar` moves by `-lr mean_i G_i`, which the server knows. Then `r_i` is where the steps of descent
    begin.

    Args:
      task: the model and its loss.
      plan: the minibatches; the coin says how many.
      lr: the paper's `alpha / n`, traced.
      lam: strength of the pull, >= 0, traced; 0 is local-only by SVRG.
      p: chance of a step towards the mean, in (0, 1), traced.

    Returns:
      An algorithm whose clients keep and deploy `x_i` (|params|), keep `G_i` and `psi_i`, and upload `x_i` and `G_i`,
      2 |params|; down: as much, + 2. A round costs a gradient of all examples, and two for each minibatch. A newcomer
      starts at `xbar`.

    Clients count equally, as in the paper.
    Deviations from the source: the paper keeps a gradient for each example and renews those that it meets; here one
    point of reference stands for all of them, as in SVRG, and is renewed in each round. All clients take part there.
    Source: Hanzely and Richtarik, "Federated Learning of a Mixture of Global and Local Models", 2020.

    For `lam = 1` clients and the mean are where `x_i - c_i + x_i - 4 = 0`:

    >>> from pfljax.learning import plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> quadratics.deployed(l2sgd_plus(task, plans.full_batch(1, 1), lr=0.2, p=0.5), task, data, rounds=100)
    {'w': [2.0, 6.0]}
    """

    def init(key: Array) -> Params:
        w = task.init(key)
        return joined(model=w, slope=Params(tree.scale(0, w.trainable)))

    def start(shared: Params) -> Controlled:
        w, G = parted(shared, "model", "slope")
        return Controlled(w, tree.scale(0, G.trainable), tree.scale(0, G.trainable))

    def client_update(download: tuple[Params, Tosses], own: Controlled, data: ClientData, key: Array) -> Reply:
        shared, coin = download
        xbar, G_mean = (part.trainable for part in parted(shared, "model", "slope"))

        def towards_mean(_: Array, carry: tuple[Tree, Tree, Tree]) -> tuple[Tree, Tree, Tree]:
            x, psi, xbar = carry
            away = tree.sub(x, xbar)
            slope = tree.add(tree.axpy(lam / p, away, tree.scale(1 - 1 / p, psi)), own.G)
            return tree.axpy(-lr, slope, x), tree.scale(lam, away), tree.axpy(-lr, G_mean, xbar)

        x, psi, _ = jax.lax.fori_loop(0, coin.heads, towards_mean, (own.x.trainable, own.psi, xbar))
        r = own.x._replace(trainable=x)
        G = mean_gradient(task.loss, r, data, jax.random.fold_in(key, 1))
        control = tree.add(G, psi)

        def loss(x: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            value, stats = task.loss(x, batch, key)
            then, _ = gradient(task.loss, r, batch, key)
            return (value - tree.vdot(then, x.trainable)) / (1 - p) + tree.vdot(control, x.trainable), stats

        x = descent(optax.sgd(lr), lasting(coin.tails, plan))(loss, r, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(shared, joined(model=x, slope=Params(G))), Controlled(x, G, psi))

    made = accompanied(
        task._replace(init=init), client_update, lambda download, own: own.x, start, reduce=uniform(mean)
    )
    return _tossing(made._replace(server_model=lambda shared, own: parted(shared, "model")[0]), p)


def _tossing(algorithm: Algorithm, p: Array | float) -> Algorithm:
    """`algorithm` whose server tosses the coin for all."""

    def tossed(key: Array) -> Tosses:
        def until(other: Array | float, side: int) -> Array:
            return jax.random.geometric(jax.random.fold_in(key, side), other, dtype=jnp.int32)

        return Tosses(heads=until(1 - p, 0), tails=until(p, 1))

    return announced(algorithm, tossed, lambda coin, key: tossed(key))
