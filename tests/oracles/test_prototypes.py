"""FedProto, FedTGP, FedGH, FedMD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import algorithms
from pfljax.federation.kinds import of_kinds
from pfljax.learning import classes, losses
from pfljax.types import Batch, Cohort, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import Rows, close
from tests.oracles.test_kinds import KINDS, MODELS, TASKS, data, flat, gradient, row, solver

pytestmark = pytest.mark.usefixtures("x64")

MODEL, TASK = MODELS[0], TASKS[0]
X = np.random.default_rng(3).normal(size=(6, network.INPUTS))
C, LR = network.CLASSES, network.LR
ROUNDS, COHORT = 3, 3


def features(w: Any, x: np.ndarray) -> np.ndarray:
    """Of either network."""
    return x @ w["V"] + w["v"] if "V" in w else np.tanh(x @ w["W1"] + w["b1"])


def pull(w: Any, rows: Rows, towards: np.ndarray) -> Any:
    """The gradient of `mean <z(x), towards>` over the rows, `towards` [n, d]: through the body alone."""
    x, _ = rows
    inner = towards / len(x) * (1 if "V" in w else 1 - features(w, x) ** 2)
    names = ("V", "v") if "V" in w else ("W1", "b1")
    zeros = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    return zeros | {names[0]: x.T @ inner, names[1]: inner.sum(0)}


def aligned(lam: float, P: np.ndarray, seen: np.ndarray) -> reference.Gradient:
    """Of `CE + lam mean_d (z - P_y)^2`."""

    def of(w: Any, rows: Rows) -> Any:
        x, y = rows
        gaps = 2 * (features(w, x) - P[y]) / P.shape[1] * seen[y][:, None]
        return reference.axpy(lam, pull(w, rows, gaps), gradient(w, rows))

    return of


def prototypes(w: Any, rows: Rows) -> dict[int, np.ndarray]:
    """The mean features of each class that there is."""
    x, y = rows
    return {k: features(w, x[y == k]).mean(0) for k in np.unique(y)}


def models_of(run: play.Played, state: Any) -> list[Any]:
    """The clients' models, of one network or of two."""
    if not isinstance(state.clients, Params):
        place = [int((KINDS[:i] == KINDS[i]).sum()) for i in range(5)]
        return [flat(row(state.clients[KINDS[i]].trainable, place[i])) for i in range(5)]
    return [flat(row(state.clients.trainable, i)) for i in range(5)]


def fedproto_loop(f: reference.Federation, v: Sequence[Any], lam: float, by_examples: bool) -> Any:
    v, P, seen = list(v), np.zeros((C, network.HIDDEN)), np.zeros(C)
    for t, cohort in enumerate(f.cohorts):
        sent: list[Any] = [[] for _ in range(C)]
        for i in cohort:
            v[i] = reference.descend(v[i], aligned(lam, P, seen), f.batches(t, i, 0), LR)
            for k, q in prototypes(v[i], f.everything[i]).items():
                sent[k].append((q, (f.everything[i][1] == k).sum() if by_examples else 1))
        for k, pairs in enumerate(sent):
            if pairs:
                P[k] = sum(n * q for q, n in pairs) / sum(n for _, n in pairs)
                seen[k] = 1
    return v, P, seen


@pytest.mark.parametrize(("kinds", "weights"), [(2, "examples"), (1, "clients")])
def test_fedproto_against_loops(kinds, weights):
    """Clients of one network, and of two; each client lacks a class."""
    made = [algorithms.fedproto(t, solver(), m, lam=0.7, weights=weights) for t, m in zip(TASKS, MODELS, strict=True)]
    task: Any = TASKS if kinds == 2 else TASK
    run = play.play(task, of_kinds(made) if kinds == 2 else made[0], data(), ROUNDS, cohort=COHORT)
    f = network.federation(ROUNDS, COHORT)
    v, P, seen = fedproto_loop(f, models_of(run, run.start), 0.7, weights == "examples")
    close(run.state.server.P, P)
    np.testing.assert_array_equal(run.state.server.seen, seen)
    for found, wanted in zip(models_of(run, run.state), v, strict=True):
        play.assert_trees_close(found, wanted)
    if kinds == 1:
        own = row(run.personalized(), 3)
        distances = ((features(v[3], X)[:, None] - P) ** 2).sum(-1)
        found: Any = made[0].predict
        close(found(own, X)[:, seen > 0], -distances[:, seen > 0])


@pytest.mark.slow
def test_fedproto_without_alignment_trains_alone():
    alone = play.play(
        TASK, algorithms.local_only(TASK, solver(), participation="cohort"), data(), ROUNDS, cohort=COHORT
    )
    proto = algorithms.fedproto(TASK, solver(), MODEL, lam=0.0, predicts="head")
    play.assert_trees_close(
        flat(play.play(TASK, proto, data(), ROUNDS, cohort=COHORT).personalized().trainable),
        flat(alone.personalized().trainable),
    )


def test_the_penalty_of_one_example():
    """z = (1, 3), P = (0, 1): 2.5, and its gradient (1, 2)."""
    model = MODEL._replace(
        features=lambda params, x, **_: (x + params.trainable["z"][None], {}),
        head=lambda params, z, **_: (jnp.zeros((len(z), 2)), {}),
        features_shape=(2,),
    )
    P: Any = classes.Prototypes(jnp.array([[0.0, 1.0], [9.0, 9.0]]), jnp.array([1.0, 0.0]))
    batch: Any = Batch(np.zeros((1, 2)), np.array([0]), np.ones(1))  # pyright: ignore[reportArgumentType]
    loss = classes.aligned(model, 1.0, P)
    params = Params({"z": np.array([1.0, 3.0])})
    close(loss(params, batch, jax.random.key(0))[0] - np.log(2), 2.5)
    step, _ = losses.gradient(loss, params, batch, jax.random.key(0))
    close(step["z"], [1.0, 2.0])


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def made(net: Any) -> np.ndarray:
    return np.maximum(net["e"] @ net["U"] + net["u"], 0) @ net["V"] + net["v"]


def pushed(q: np.ndarray, y: np.ndarray, P: np.ndarray, xi: float) -> tuple[np.ndarray, np.ndarray]:
    """The losses of pairs (q, y), and the gradient of their mean with respect to P."""
    away = q[:, None] - P
    lengths = np.sqrt((away**2).sum(-1))
    p = softmax(-lengths - xi * np.eye(len(P))[y])
    slopes = (p - np.eye(len(P))[y]) / len(y)
    return -np.log(p[np.arange(len(y)), y]), ((slopes / lengths)[..., None] * away).sum(0)


def trained(net: Any, pairs: Sequence[tuple[np.ndarray, int]], margin: float, lr: float, steps: int) -> Any:
    """The server's descent on all pairs at once."""
    q, y = np.array([q for q, _ in pairs]), np.array([k for _, k in pairs])
    centers = {k: q[y == k].mean(0) for k in np.unique(y)}
    gaps = [min(np.linalg.norm(a - b) for j, b in centers.items() if j != k) for k, a in centers.items()]
    for _ in range(steps):
        _, slope = pushed(q, y, made(net), float(min(max(gaps), margin)))
        inner = net["e"] @ net["U"] + net["u"]
        back = slope @ net["V"].T * (inner > 0)
        grads = {"V": np.maximum(inner, 0).T @ slope, "v": slope.sum(0), "U": net["e"].T @ back, "u": back.sum(0)}
        net = {name: net[name] - lr * grad for name, grad in (grads | {"e": back @ net["U"].T}).items()}
    return net


def test_the_losses_of_trained_prototypes():
    """Constants: centers (1, 0), (0, 1), (-1, 0), a margin of 0.5."""
    centers = np.array([[1.0, 0], [0, 1], [-1, 0]]) + 1e-12
    found, _ = pushed(np.eye(2), np.array([0, 1]), centers, 0.5)
    close(found, [0.484868775623, 0.588710384059], 1e-10)


@pytest.mark.parametrize("margin", [100.0, 0.2])
def test_fedtgp_against_loops(margin):
    server: dict[str, Any] = {"server_lr": 0.3, "server_epochs": 4, "server_batch_size": 64}
    method = algorithms.fedtgp(TASK, solver(), MODEL, lam=0.7, margin=margin, **server)
    run = play.play(TASK, method, data(), ROUNDS, cohort=COHORT)
    f, v = network.federation(ROUNDS, COHORT), models_of(run, run.start)
    net, seen = run.start.server.net.trainable, np.zeros(C)
    for t, cohort in enumerate(f.cohorts):
        pairs = []
        for i in cohort:
            v[i] = reference.descend(v[i], aligned(0.7, made(net), seen), f.batches(t, i, 0), LR)
            pairs += [(q, k) for k, q in prototypes(v[i], f.everything[i]).items()]
        net, seen = trained(net, pairs, margin, 0.3, 4), np.ones(C)
    play.assert_trees_close(run.state.server.net.trainable, net)
    close(run.state.server.prototypes.P, made(net))
    for found, wanted in zip(models_of(run, run.state), v, strict=True):
        play.assert_trees_close(found, wanted)


@pytest.mark.parametrize("kinds", [1, 2])
def test_fedgh_against_loops(kinds):
    server: dict[str, Any] = {"server_lr": 0.5, "server_epochs": 3, "server_batch_size": 64}
    made = [algorithms.fedgh(t, solver(), m, **server) for t, m in zip(TASKS, MODELS, strict=True)]
    task: Any = TASKS if kinds == 2 else TASK
    run = play.play(task, of_kinds(made) if kinds == 2 else made[0], data(), ROUNDS, cohort=COHORT)
    f, v = network.federation(ROUNDS, COHORT), models_of(run, run.start)
    h = flat(run.start.server.trainable)
    for t, cohort in enumerate(f.cohorts):
        pairs = []
        for i in cohort:
            v[i] = reference.descend({**v[i], **h}, gradient, f.batches(t, i, 0), LR)
            pairs += [(q, k) for k, q in prototypes(v[i], f.everything[i]).items()]
        rows = np.array([q for q, _ in pairs]), np.array([k for _, k in pairs])
        h = reference.descend(h, reference.network_gradient, [rows] * 3, 0.5)
    play.assert_trees_close(flat(run.state.server.trainable), h)
    for found, wanted in zip(models_of(run, run.state), v, strict=True):
        play.assert_trees_close(found, wanted)


def test_the_servers_step_of_fedgh():
    """A head of zeros, prototypes (1, 0) of class 0, (0, 1) and (1, 1) of class 1: rows (0, -1/3), (0, 1/3)."""
    top = {"top": {"W2": np.zeros((2, 2)), "b2": np.zeros(2)}}
    model = MODELS[1]._replace(
        init=lambda key: Params({"stem": {"V": jnp.zeros((3, 2)), "v": jnp.zeros(2)}, **top}),
        features_shape=(2,),
    )
    method = algorithms.fedgh(
        TASK._replace(init=model.init), solver(), model, server_lr=1.0, server_epochs=1, server_batch_size=8
    )
    q = np.array([[[1.0, 0], [0, 1]], [[7, 7], [1, 1]], [[5, 5], [5, 5]]])
    held = np.array([[1.0, 1], [0, 1], [0, 0]])
    cohort: Any = Cohort(np.arange(3), (q, held), np.array([2.0, 1, 0]))  # pyright: ignore[reportArgumentType]
    h = method.server_update(method.init_server(jax.random.key(0), 3), cohort, jax.random.key(1))
    close(h.trainable["top"]["W2"], np.array([[0, -1 / 3], [0, 1 / 3]]).T)
    close(h.trainable["top"]["b2"], [-1 / 6, 1 / 6])


@pytest.mark.parametrize(
    ("name", "does"), [("fedproto", "averages"), ("fedtgp", "averages"), ("fedgh", "averages"), ("fedmd", "counts")]
)
def test_what_they_need(name, does):
    with pytest.raises(ValueError, match=f"{name} {does} .*, and the model has none"):
        getattr(algorithms, name)(TASK, solver(), MODEL._replace(features=None))


PUBLIC = np.random.default_rng(9).normal(size=(7, network.INPUTS))


def digested(w: Any, x: np.ndarray, logits: np.ndarray, lr: float, steps: int) -> Any:
    """Adam on `mean |h(z) - logits|`, all examples at once."""
    m, v = ({name: np.zeros_like(leaf) for name, leaf in w.items()} for _ in range(2))
    for t in range(1, steps + 1):
        z = features(w, x)
        signs = np.sign(z @ w["W2"] + w["b2"] - logits) / logits.shape[1]
        grads = pull(w, (x, np.zeros(len(x), int)), signs @ w["W2"].T)
        grads |= {"W2": z.T @ signs / len(x), "b2": signs.mean(0)}
        m = {name: 0.9 * m[name] + 0.1 * grads[name] for name in w}
        v = {name: 0.999 * v[name] + 0.001 * grads[name] ** 2 for name in w}
        w = {name: w[name] - lr * m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8) for name in w}
    return w


@pytest.mark.parametrize("kinds", [1, 2])
def test_fedmd_against_loops(kinds):
    """The alignment is all public examples, in the order in which each round draws them."""
    given: dict[str, Any] = {"alignment": 9, "digest_lr": 0.02, "digest_epochs": 3, "digest_batch_size": 16}
    made = [algorithms.fedmd(t, solver(), m, **given) for t, m in zip(TASKS, MODELS, strict=True)]
    task: Any = TASKS if kinds == 2 else TASK
    shared = data().with_public(PUBLIC)
    run = play.play(task, of_kinds(made) if kinds == 2 else made[0], shared, ROUNDS, cohort=COHORT)
    f, v, logits = network.federation(ROUNDS, COHORT), models_of(run, run.start), None
    for t, cohort in enumerate(f.cohorts):
        said = []
        for i in cohort:
            own = v[i] if logits is None else digested(v[i], PUBLIC, logits, 0.02, 3)
            v[i] = reference.descend(own, gradient, f.batches(t, i, 0), LR)
            said.append(features(v[i], PUBLIC) @ v[i]["W2"] + v[i]["b2"])
        logits = np.mean(said, axis=0)
    for found, wanted in zip(models_of(run, run.state), v, strict=True):
        play.assert_trees_close(found, wanted, 1e-9)
    found: Any = run.state.server.logits[:7]
    assert logits is not None
    close(found[np.lexsort(found.T)], logits[np.lexsort(logits.T)], 1e-9)


def test_fedmd_needs_public_examples():
    with pytest.raises(ValueError, match="fedmd compares outputs on examples that everybody sees, and there are none"):
        play.play(TASK, algorithms.fedmd(TASK, solver(), MODEL), data(), 1)
