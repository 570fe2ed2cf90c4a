"""FedDBE, FedPAC, GPFL, FedCP."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.algorithms.fedpac import collaboration
from pfljax.data import from_clients
from pfljax.learning import local, losses, plans, tasks
from pfljax.types import ClientData, Examples
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import Rows, close
from tests.oracles.test_kinds import flat, row, solver
from tests.oracles.test_prototypes import aligned, features, prototypes, pull

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
X = np.random.default_rng(3).normal(size=(6, network.INPUTS))
C, LR, ROUNDS, COHORT = network.CLASSES, network.LR, network.ROUNDS, network.COHORT
SIZES = np.array(network.SIZES, float)


def shifted(w: Any, c: np.ndarray, rows: Rows) -> tuple[Any, np.ndarray]:
    """The gradient of `CE(h(z + c), y)` with respect to the model and to c."""
    x, y = rows
    z = features(w, x)
    top = reference.network_gradient({"W2": w["W2"], "b2": w["b2"]}, (z + c, y))
    scores = (z + c) @ w["W2"] + w["b2"]
    p = np.exp(scores - scores.max(1, keepdims=True))
    back = (p / p.sum(1, keepdims=True) - np.eye(C)[y]) @ w["W2"].T
    return {**pull(w, rows, back), **top}, back.mean(0)


def feddbe_round(w: Any, c: np.ndarray, g: np.ndarray | None, batches: Sequence[Rows], kappa: float, mu: float) -> Any:
    """A client's round; without g the one that finds it."""
    r = np.zeros(network.HIDDEN)
    for rows in batches:
        x, _ = rows
        r = (1 - mu) * r + mu * features(w, x).mean(0)
        step, turn = shifted(w, c, rows)
        if g is not None:
            step = reference.axpy(kappa, pull(w, rows, np.tile(mu * (r - g) / len(g), (len(x), 1))), step)
            c = c - LR * turn
        w = reference.axpy(-LR, step, w)
    return w, c, r


@pytest.mark.parametrize(("kappa", "mu"), [(3.0, 0.4), (20.0, 1.0)])
def test_feddbe_against_loops(kappa, mu):
    method: Any = algorithms.feddbe(TASK, solver(), MODEL, kappa=kappa, mu=mu)
    run = play.play(TASK, method, network.data(), ROUNDS + 1, cohort=COHORT)
    f = network.federation(ROUNDS + 1, COHORT)
    w, c, g = flat(run.start.server[0].params.trainable), [np.zeros(network.HIDDEN)] * 5, None
    for t, cohort in enumerate(f.cohorts):
        made = [feddbe_round(w, c[i], g, f.batches(t, i, 0), kappa, mu) for i in cohort]
        if g is None:
            g = np.average([r for _, _, r in made], axis=0, weights=SIZES[cohort])
            continue
        w = reference.average([model for model, _, _ in made], SIZES[cohort].tolist())
        for i, (_, own, _) in zip(cohort, made, strict=True):
            c[i] = own
    play.assert_trees_close(flat(run.state.server[0].params.trainable), w)
    close(run.state.server[1].g, g)
    close(run.state.clients, np.array(c))
    logits = (features(w, X) + c[2]) @ w["W2"] + w["b2"]
    close(method.predict(row(run.personalized(), 2), X), logits)


def test_feddbe_without_pull_and_shift_is_fedavg_a_round_later():
    """Where no c moves and kappa is 0, rounds 2 to 4 are those of FedAvg with their draws."""
    labels: Any = {"model": "moves", "shift": "rests"}
    optimizer = optax.partition({"moves": optax.sgd(LR), "rests": optax.sgd(0.0)}, labels)
    still = algorithms.feddbe(TASK, local.descent(optimizer, network.plan()), MODEL, kappa=0.0)
    run = play.play(TASK, still, network.data(), ROUNDS + 1, cohort=COHORT)
    f = network.federation(ROUNDS + 1, COHORT)
    later = f._replace(cohorts=f.cohorts[1:], batches=lambda t, i, phase: f.batches(t + 1, i, phase))
    start = flat(run.start.server[0].params.trainable)
    play.assert_trees_close(flat(run.state.server[0].params.trainable), reference.fedavg(later, start, lr=LR))


def exact_mixture(own: np.ndarray, H: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The best of the solutions on each support, which is that of the program."""
    away = (own - H).reshape(len(H), -1)
    Q, best, value = away @ away.T + np.diag(v), np.zeros(len(H)), np.inf
    for size in range(1, len(H) + 1):
        for support in map(list, itertools.combinations(range(len(H)), size)):
            solved = np.linalg.solve(Q[np.ix_(support, support)], np.ones(size))
            a = np.zeros(len(H))
            a[support] = solved / solved.sum()
            if (a >= 0).all() and a @ Q @ a < value:
                best, value = a, a @ Q @ a
    best = np.where(best < 1e-3, 0, best)
    return best / best.sum()


def test_heads_of_two_clients_mix_as_the_closed_form_says():
    """a_self = (v_other + D) / (v_1 + v_2 + D); equal H: inverse to v; no variance: its own head."""
    H = jnp.array([[[0.5, 0], [0, 0.5]], [[0.3, 0.1], [0, 0.7]]])
    v, all_heard = jnp.array([0.04, 0.01]), jnp.ones(2, bool)
    close(collaboration(H[0], H, v, all_heard), [5 / 7, 2 / 7], 1e-9)
    close(collaboration(H[1], H, v, all_heard), [1 / 14, 13 / 14], 1e-9)
    close(collaboration(H[0], H[jnp.array([0, 0])], v, all_heard), [0.2, 0.8], 1e-9)
    close(collaboration(H[0], H, 0 * v, all_heard), [1, 0], 1e-9)
    close(collaboration(H[0], H, v, jnp.array([False, True])), [0, 1], 1e-9)


def test_the_statistics_of_three_examples():
    """z = (1, 0), (3, 0) of class 0, (0, 2) of class 1: v = 22/27, H = [[4/3, 0], [0, 2/3]]."""
    model = MODEL._replace(features=lambda params, x, **_: (x, params.stats), features_shape=(2,))
    top = {"W2": jnp.zeros((2, 2)), "b2": jnp.zeros(2)}
    task = TASK._replace(
        init=lambda key: TASK.init(key)._replace(trainable={"body": {"W1": jnp.zeros(1)}, "head": top})
    )
    model = model._replace(init=task.init)
    rest = lambda loss, params, data, key: params  # noqa: E731
    method = algorithms.fedpac(task, rest, rest, model)
    x, y = jnp.array([[1.0, 0], [3, 0], [0, 2]]), jnp.array([0, 0, 1])
    client = ClientData(Examples(x, y), jnp.asarray(0, jnp.int32), jnp.asarray(3, jnp.int32), jnp.asarray(0))
    key = jax.random.key(0)
    sent = method.client_update(method.download(method.init_server(key, 1), jnp.asarray(0)), (), client, key).upload
    close(sent.v, 22 / 27)
    close(sent.H, [[4 / 3, 0], [0, 2 / 3]])


def fedpac_loop(f: reference.Federation, b: Any, head: Any, lam: float) -> Any:
    heads, P, seen = [head] * 5, np.zeros((C, network.HIDDEN)), np.zeros(C)
    for t, cohort in enumerate(f.cohorts):
        H, v, bodies, tops, sent = [], [], [], [], []
        for i in cohort:
            w, (x, y) = {**b, **heads[i]}, f.everything[i]
            mu, pi, z = prototypes(w, (x, y)), np.bincount(y, minlength=C) / len(y), features(w, x)
            H.append(np.stack([pi[k] * mu.get(k, np.zeros(network.HIDDEN)) for k in range(C)]))
            v.append(((z**2).sum(1).mean() - (H[-1] ** 2).sum()) / len(y))
            T = np.stack([P[k] if seen[k] else mu.get(k, np.zeros(network.HIDDEN)) for k in range(C)])
            w = reference.descend(w, reference.network_gradient, f.batches(t, i, 0), LR, trained=network.HEAD)
            loss = aligned(lam if seen.any() else 0.0, T, np.ones(C))
            w = reference.descend(w, loss, f.batches(t, i, 1), LR, trained=network.BODY)
            bodies.append({name: w[name] for name in network.BODY})
            tops.append({name: w[name] for name in network.HEAD})
            sent.append((prototypes(w, (x, y)), np.bincount(y, minlength=C)))
        b = reference.average(bodies, SIZES[cohort].tolist())
        for k in range(C):
            if total := sum(n[k] for _, n in sent):
                P[k], seen[k] = sum(n[k] * q[k] for q, n in sent if n[k]) / total, 1
        mixed = [reference.average(tops, exact_mixture(own, np.array(H), np.array(v)).tolist()) for own in H]
        for i, own in zip(cohort, mixed, strict=True):
            heads[i] = own
    return b, heads, P, seen


def test_fedpac_against_loops():
    method = algorithms.fedpac(TASK, solver(), solver(), MODEL, lam=0.7)
    run = play.play(TASK, method, network.data(), ROUNDS, cohort=COHORT)
    f = network.federation(ROUNDS, COHORT, (network.plan, network.plan))
    start = run.start.server
    first = {name: leaf[0] for name, leaf in flat(start.heads.trainable).items()}
    b, heads, P, seen = fedpac_loop(f, flat(start.body.params.trainable), first, 0.7)
    found = run.state.server
    play.assert_trees_close(flat(found.body.params.trainable), b, 1e-9)
    close(found.prototypes.P, P, 1e-9)
    np.testing.assert_array_equal(found.prototypes.seen, seen)
    for i in range(5):
        play.assert_trees_close(flat(row(found.heads.trainable, i)), heads[i], 1e-9)
        play.assert_trees_close(flat(row(run.personalized().trainable, i)), {**b, **heads[i]}, 1e-9)


def complex_gradient(loss: Any, w: Any) -> Any:
    """Of a real function that is analytic in the leaves of `w`, number by number: exact to rounding."""
    h, grads = 1e-30, {}
    for name, leaf in w.items():
        grad = np.zeros_like(leaf)
        for place in np.ndindex(leaf.shape):
            bent = leaf.astype(complex)
            bent[place] += 1j * h
            grad[place] = loss({**w, name: bent}).imag / h
        grads[name] = grad
    return grads


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(np.real(x) > 0, x, 0)


def norm(x: np.ndarray, net: Any, name: str) -> np.ndarray:
    away = x - x.mean(-1, keepdims=True)
    return away / np.sqrt((away**2).mean(-1, keepdims=True) + 1e-5) * net[f"{name}.scale"] + net[f"{name}.shift"]


def entropy(scores: np.ndarray, y: np.ndarray) -> Any:
    top = np.real(scores).max(1, keepdims=True)
    return (np.log(np.exp(scores - top).sum(1)) + top[:, 0] - scores[np.arange(len(y)), y]).mean()


def length(x: np.ndarray) -> np.ndarray:
    """Norms of the rows, of which none counts as 0."""
    squares = (x**2).sum(-1)
    return np.sqrt(np.where(np.real(squares) > 1e-12, squares, 1e-12))


def dotted(part: Any) -> Any:
    """Leaves of a tree of dictionaries by the names of the last one or two."""
    found = {}
    for name, leaf in part.items():
        inner = {f"{name}.{key}": value for key, value in leaf.items()} if isinstance(leaf, dict) else {name: leaf}
        found |= {key: np.asarray(value) for key, value in inner.items()}
    return found


def valve(w: Any, z: np.ndarray, c: np.ndarray) -> np.ndarray:
    gamma, beta = (norm(relu(c @ w[f"{n}.W"] + w[f"{n}.b"]), w, n) for n in ("gamma", "beta"))
    return relu(z * (gamma + 1) + beta)


VALVE = ("E", *(f"{net}.{leaf}" for net in ("gamma", "beta") for leaf in ("W", "b", "scale", "shift")))


def gpfl_loss(received: np.ndarray, p: np.ndarray, rows: Rows, lam: float, mu: float) -> Any:
    x, y = rows

    def loss(w: Any) -> Any:
        z = features(w, x)
        common, E = valve(w, z, received.mean(0)), w["E"]
        cosines = (common / length(common)[:, None]) @ (E / length(E)[:, None]).T
        own = entropy(valve(w, z, p) @ w["W2"] + w["b2"], y)
        decay = sum((w[name] ** 2).sum() for name in VALVE)
        return own + entropy(cosines, y) + lam * length(common - received[y]).mean() + mu / 2 * decay

    return loss


def test_gpfl_against_loops():
    method: Any = algorithms.gpfl(TASK, solver(), MODEL, lam=0.3, mu=0.05)
    run = play.play(TASK, method, network.data(), 2, cohort=COHORT)
    f, server = network.federation(2, COHORT), run.start.server.params.trainable
    w = flat(server["model"]) | dotted(server["valve"])
    heads = [flat(row(run.start.clients.trainable, i)) for i in range(5)]
    pi = [np.bincount(y, minlength=C) / len(y) for _, y in f.everything]
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            own, E = {**w, **heads[i]}, w["E"]
            for rows in f.batches(t, i, 0):
                own = reference.axpy(-LR, complex_gradient(gpfl_loss(E, pi[i] @ E, rows, 0.3, 0.05), own), own)
            heads[i] = {name: own[name] for name in network.HEAD}
            results.append({name: own[name] for name in w})
        w = reference.average(results, SIZES[cohort].tolist())
    ended = run.state.server.params.trainable
    play.assert_trees_close(flat(ended["model"]) | dotted(ended["valve"]), w, 1e-11)
    for i in range(5):
        play.assert_trees_close(flat(row(run.state.clients.trainable, i)), heads[i], 1e-11)
    logits = valve(w, features(w, X), pi[2] @ w["E"]) @ heads[2]["W2"] + heads[2]["b2"]
    close(method.predict(row(run.personalized(), 2), X), logits, 1e-11)


def test_the_valve_of_gpfl():
    """Constants: a layer norm of (1, 3, 0), CoV of (1, -1, 2) by it, cosines of (3, 4) with (1, 0) and (0, 2)."""
    unit = {"n.scale": np.ones(3), "n.shift": np.zeros(3)}
    by = norm(np.array([1.0, 3, 0]), unit, "n")
    close(by, [-0.267260382863, 1.336301914313, -1.069041531450], 1e-12)
    close(relu(np.array([1.0, -1, 2]) * (by + 1) + by), [0.465479234275, 0, 0], 1e-12)
    z, E = np.array([[3.0, 4]]), np.array([[1.0, 0], [0, 2]])
    close(entropy((z / length(z)) @ (E / length(E)[:, None]).T, np.array([0])), 0.798138869382)


def mmd(x: np.ndarray, y: np.ndarray) -> Any:
    def similar(a: np.ndarray, b: np.ndarray) -> Any:
        away = ((a[:, None] - b) ** 2).sum(-1)
        return np.sum([np.exp(-away / (2 * width)) for width in (10, 15, 20, 50)], axis=0).mean()

    return similar(x, x) + similar(y, y) - 2 * similar(x, y)


def test_the_distance_of_fedcp():
    """x = (0, 0), (1, 0), y = (0, 1), (2, 0): 0.121950067051; padding counts for nothing."""
    x, y = np.array([[0.0, 0], [1, 0], [7, 7]]), np.array([[0.0, 1], [2, 0], [8, 8]])
    close(mmd(x[:2], y[:2]), 0.121950067051)
    close(losses.discrepancy(jnp.asarray(x), jnp.asarray(y), jnp.array([1.0, 1, 0])), 0.121950067051)


def policy(w: Any, own: Any, z: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Outputs; `own` are the client's head and the gate."""
    pairs = relu(norm(z * u @ own["gate.W"] + own["gate.b"], own, "gate")).reshape(len(z), 2, -1)
    s = 1 / (1 + np.exp(pairs[:, 1] - pairs[:, 0]))
    return s * z @ own["W2"] + own["b2"] + (1 - s) * z @ w["W2"] + w["b2"]


def test_fedcp_against_loops():
    method: Any = algorithms.fedcp(TASK, solver(), MODEL, lam=0.7)
    run = play.play(TASK, method, network.data(), 2, cohort=COHORT)
    f, server = network.federation(2, COHORT), run.start.server.params.trainable
    w = flat(server["model"]) | dotted({"gate": server["gate"]})
    heads = [flat(row(run.start.clients.trainable, i)) for i in range(5)]
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            own, u = {**w, **heads[i]}, heads[i]["W2"].sum(1)
            for x, y in f.batches(t, i, 0):

                def loss(own: Any, x: Any = x, y: Any = y, u: Any = u / length(u)) -> Any:
                    z = features(own, x)
                    return entropy(policy(w, own, z, u), y) + 0.7 * mmd(z, features(w, x))  # noqa: B023

                own = reference.axpy(-LR, complex_gradient(loss, own), own)
            heads[i] = {name: own[name] for name in network.HEAD}
            results.append(own | {name: (own[name] + w[name]) / 2 for name in network.HEAD})
        w = reference.average(results, SIZES[cohort].tolist())
    ended = run.state.server.params.trainable
    play.assert_trees_close(flat(ended["model"]) | dotted({"gate": ended["gate"]}), w, 1e-11)
    u = heads[2]["W2"].sum(1)
    logits = policy(w, {**w, **heads[2]}, features(w, X), u / length(u))
    close(method.predict(row(run.personalized(), 2), X), logits, 1e-11)


def test_the_noise_of_fedcp():
    """With pairs (c, 0) the noise makes `s = sigmoid(c + l)`, l logistic: `P(s > q) = sigmoid(c - logit(q))`.

    Without heads the first step of the client's is `s z (y - p)'`, from which s is read.
    """
    one = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))
    x, c, count = X[:1], 0.6, 2000
    client = from_clients([(x, [1])], num_classes=C).client(0)

    def shares(gumbel: bool) -> np.ndarray:
        method: Any = algorithms.fedcp(TASK, one, MODEL, lam=0.0, gumbel=gumbel)
        shared = method.download(method.init_server(jax.random.key(0), 1), jnp.asarray(0))
        shift = jnp.repeat(jnp.array([c, 0.0]), network.HIDDEN)
        shared.trainable["gate"] = jax.tree.map(jnp.zeros_like, shared.trainable["gate"]) | {"shift": shift}
        shared.trainable["model"]["head"] = jax.tree.map(jnp.zeros_like, shared.trainable["model"]["head"])
        own = method.init_client(shared, jnp.asarray(0), jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), count)
        heads = jax.vmap(lambda key: method.client_update(shared, own, client, key).client)(keys)
        z = features(flat(shared.trainable["model"]), x)[0]
        return np.asarray(flat(heads.trainable)["W2"])[:, :, 1] / (z * (1 - 1 / C))[None]

    close(shares(gumbel=False), 1 / (1 + np.exp(-c)))
    drawn = shares(gumbel=True)
    for q in (0.2, 0.5, 0.9):
        expected = 1 / (1 + np.exp(-c) * q / (1 - q))
        close((drawn > q).mean(), expected, 4 * np.sqrt(expected * (1 - expected) / drawn.size))
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("feddbe", "shifts features"), ("fedpac", "aligns features"), ("gpfl", "conditions"), ("fedcp", "parts features")],
)
def test_what_they_need(name: str, sentence: str):
    made = getattr(algorithms, name)
    solvers = (solver(), solver()) if name == "fedpac" else (solver(),)
    with pytest.raises(ValueError, match=f"{name} {sentence}.*, and the model has none"):
        made(TASK, *solvers, MODEL._replace(features=None))
