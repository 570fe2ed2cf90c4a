"""L2GD: clients keep models of their own, and a coin says when they step towards their mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.skeletons import accompanied, announced
from pfljax.learning.local import descent
from pfljax.learning.plans import lasting
from pfljax.types import Algorithm, Array, ClientData, Params, Plan, Reply, Task


class Tosses(NamedTuple):
    """How the coin falls between two communications."""

    heads: Array  # [] steps towards the mean, at least 1
    tails: Array  # [] steps of descent after them, at least 1


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
    Deviations from the source: all clients take part there; here `xbar` is the mean of those that do in a round. No
    control variates (L2SGD+). Running statistics are averaged with the weights.
    Source: Hanzely and Richtarik, "Federated Learning of a Mixture of Global and Local Models", 2020, Algorithm 1.

    With `lr lam = p`, from the mean 4 half of the way to each client's center, as often as the coin said, here twice:

    >>> from pfljax.learning import plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> method = l2gd(task, plans.full_batch(1, 1), lr=0.25, lam=2.0, p=0.5)
    >>> quadratics.deployed(method, task, data, rounds=30)
    {'w': [1.0, 7.0]}
    """

    def tossed(key: Array) -> Tosses:
        def until(other: Array | float, side: int) -> Array:
            return jax.random.geometric(jax.random.fold_in(key, side), other, dtype=jnp.int32)

        return Tosses(heads=until(1 - p, 0), tails=until(p, 1))

    def client_update(download: tuple[Params, Tosses], x: Params, data: ClientData, key: Array) -> Reply:
        xbar, coin = download
        near = tree.mix((1 - lr * lam / p) ** coin.heads.astype(float), x, xbar)
        descend = descent(optax.sgd(lr / (1 - p)), lasting(coin.tails, plan))
        x = descend(task.loss, near, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(xbar, x), x)

    algorithm = accompanied(task, client_update, lambda download, x: x, reduce=uniform(mean))
    return announced(algorithm, tossed, lambda coin, key: tossed(key))
