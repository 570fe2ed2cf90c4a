"""A round, a run of rounds, an evaluation: pure functions of a state and a federation, for others to compile."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from pfljax import tree
from pfljax.data import FederatedData
from pfljax.engine import walk
from pfljax.engine.mesh import Axis
from pfljax.learning import metrics
from pfljax.results.scores import Score
from pfljax.types import Algorithm, Array, Cohort, Draw, Params, Rows, Selector, State, Task, Tree

Logs = dict[str, Array]
"""What happened: `ids`, `replied`, `work`, `heard`, `finite`: [M]; `server_finite`: []; `reported/...`: [M]."""

_REPORTED = "reported/"

_INIT, _COHORT, _CLIENTS, _SERVER, _EVALUATION = 2**32 - 1, 0, 1, 2, 3


def _client_key(key: Array, id: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(key, _CLIENTS), id)


class Seat(NamedTuple):
    """A place in the walk over a cohort; padding has the id N and does not reply."""

    id: Array
    replied: Array
    work: Array
    weight: Array  # examples of the client, 0 if it is not heard


class Seats(NamedTuple):
    """The cohort of a round in the order in which it is walked."""

    walked: Seat  # leaves [slots]
    back: Array  # [M] the seat of each slot of the draw


class Stays(NamedTuple):
    """What a seat leaves behind besides its upload."""

    client: Tree  # the client's new state
    finite: Array  # whether the reply was
    metrics: dict[str, Array]  # that the client reports


@dataclass(frozen=True)
class Rounds:
    """The rounds of any algorithm.

    Args:
      task: the model, for predictions.
      selector: who takes part in a round.
      block: clients trained at once.
      axis: devices that share the clients, None for one device.
      onboard_rounds: rounds of onboarding for each unseen client.
      capacity: validation or test examples of the largest client.
    """

    task: Task
    selector: Selector
    block: int
    axis: Axis | None
    onboard_rounds: int
    capacity: int

    def clients(self, algorithm: Algorithm, server: Tree, ids: Array, key: Array) -> Tree:
        """The states of clients `ids` [n] before their first round, leaves [n, ...]."""
        key = jax.random.fold_in(key, _INIT)
        return jax.vmap(lambda id: algorithm.init_client(algorithm.download(server, id), id, key))(ids)

    def server(self, algorithm: Algorithm, key: Array, num_clients: int) -> Tree:
        """The server before the first round."""
        return algorithm.init_server(jax.random.fold_in(key, _INIT), num_clients)

    def init(self, algorithm: Algorithm, key: Array, num_clients: int) -> State:
        """The state before the first round."""
        server = self.server(algorithm, key, num_clients)
        clients = self.clients(algorithm, server, jnp.arange(num_clients), key)
        return State(server, clients, jnp.asarray(0), self.selector.init(num_clients))

    def advance(
        self,
        algorithm: Callable[[Array], Algorithm],
        state: State,
        key: Array,
        train: FederatedData,
        count: Array,
        at_most: int,
    ) -> tuple[State, Logs]:
        """`count` rounds, no more than `at_most`, each by the `algorithm` of its number; logs [at_most, ...]."""

        def one(state: State, key: Array, train: FederatedData) -> tuple[State, Logs]:
            return self.round(algorithm(state.round), state, key, train)

        traced, (_, log) = jax.make_jaxpr(one, return_shape=True)(state, key, train)
        run, structure = jaxpr_as_fun(traced), jax.tree.structure((state, log))

        def step(number: Array, carry: tuple[State, Logs]) -> tuple[State, Logs]:
            state, logs = carry
            state, log = jax.tree.unflatten(structure, run(*jax.tree.leaves((state, key, train))))
            return state, jax.tree.map(lambda all, new: all.at[number].set(new), logs, log)

        logs = jax.tree.map(lambda leaf: jnp.zeros((at_most, *leaf.shape), leaf.dtype), log)
        return jax.lax.fori_loop(0, count, step, (state, logs))

    def round(self, algorithm: Algorithm, state: State, key: Array, train: FederatedData) -> tuple[State, Logs]:
        """One round of a state whose clients are all at hand."""
        train = train.at(state.round)
        draw = self.draw(algorithm, state.selector, key, state.round, train)
        seats = self.seat(draw, train)
        ids = seats.walked.id
        rows = jax.tree.map(lambda leaf: jnp.take(leaf, ids, axis=0, mode="clip"), state.clients)
        server, rows, log = self.seated_round(algorithm, state.server, rows, state.round, draw, seats, key, train)
        clients = jax.tree.map(lambda leaf, new: leaf.at[ids].set(new, mode="drop"), state.clients, rows)
        return State(server, clients, state.round + 1, self.observe(state.selector, draw, log)), log

    def draw(self, algorithm: Algorithm, memory: Tree, key: Array, number: Array, train: FederatedData) -> Draw:
        """The cohort of round `number`, as the selector with its `memory` has it. A client without examples does not
        reply."""
        sizes = train.train.size[: train.num_clients]
        sampler = algorithm.participation(self.selector.sampler(memory))
        draw = sampler(jax.random.fold_in(jax.random.fold_in(key, number), _COHORT), sizes)
        replied = draw.replied & (jnp.take(sizes, draw.ids, mode="clip") > 0)
        return draw._replace(replied=replied, heard=replied if draw.heard is None else replied & draw.heard)

    def observe(self, memory: Tree, draw: Draw, log: Logs) -> Tree:
        """What the selector remembers after a round.

        Raises:
          ValueError: if it needs what the clients of this method do not report.
        """
        reported = {name.removeprefix(_REPORTED): value for name, value in log.items() if name.startswith(_REPORTED)}
        if missing := [name for name in self.selector.needs if name not in reported]:
            raise ValueError(
                f"the selector needs the {missing[0]} of each client, and clients report "
                f"{', '.join(reported) or 'nothing'}: wrap the algorithm, as sampling.reporting(algorithm, task) does"
            )
        return self.selector.observe(memory, draw, reported)

    def seat(self, draw: Draw, train: FederatedData) -> Seats:
        """The order in which a cohort is walked: clients of like cost together."""
        cohort, num_clients = draw.ids.shape[0], train.num_clients
        plan = walk.layout(cohort, self.block, self.axis)
        padding = plan.slots - cohort
        ids = jnp.pad(draw.ids, (0, padding), constant_values=num_clients)
        drawn = draw.replied, draw.work, draw.heard
        replied, work, heard = jax.tree.map(lambda part: jnp.pad(part, (0, padding)), drawn)
        sizes = jnp.where(replied, jnp.take(train.train.size[:num_clients], ids, mode="clip"), 0).astype(float)
        weights = jnp.where(heard, sizes, 0)
        order = walk.order(sizes * work, plan)
        walked = jax.tree.map(lambda part: part[order], Seat(ids, replied, work, weights))
        return Seats(walked, jnp.argsort(order)[:cohort])

    def seated_round(
        self,
        algorithm: Algorithm,
        server: Tree,
        rows: Tree,
        number: Array,
        draw: Draw,
        seats: Seats,
        key: Array,
        train: FederatedData,
    ) -> tuple[Tree, Tree, Logs]:
        """Round `number` of the clients on `seats`, whose states are the `rows` [slots, ...].

        Like `draw` and `seat` it takes the federation as it is in that round.

        Returns:
          The new server, the new rows, and what happened.
        """
        key = jax.random.fold_in(key, number)

        summed = algorithm.reduce.summed

        def one(shared: Tree, row: tuple[Seat, Tree]) -> tuple[Tree, Tree]:
            server, train, key = shared
            (id, replied, work, weight), client = row
            data = train.client(id)._replace(work=jnp.where(replied, work, 0))
            reply = algorithm.client_update(algorithm.download(server, id), client, data, _client_key(key, id))
            # 0 * NaN is NaN: the upload of who is not heard is 0 before its weight of 0 meets it.
            upload = jax.tree.map(lambda leaf: jnp.where(weight > 0, leaf, 0), reply.upload)
            term = algorithm.reduce.lift(upload, weight)
            kept = tree.where(replied, reply.client, client)
            stays = Stays(kept, tree.finite((reply.upload, reply.client)) | ~replied, reply.metrics)
            return (term, stays) if summed else ((), (stays, term))

        plan = walk.layout(draw.ids.shape[0], self.block, self.axis)
        total, kept = walk.walk(one, (server, train, key), (seats.walked, rows), plan)
        (rows, finite, reported), terms = (kept, total) if summed else kept
        if not summed:
            terms = jax.tree.map(lambda leaf: leaf[seats.back], terms)
        weights = seats.walked.weight[seats.back]
        view = Cohort(draw.ids, algorithm.reduce.lower(terms, weights), weights, train.everybodys())
        updated = algorithm.server_update(server, view, jax.random.fold_in(key, _SERVER))
        updated = tree.where(jnp.any(weights > 0), updated, server)
        log = draw._asdict() | {"finite": finite[seats.back], "server_finite": tree.finite(updated)}
        return updated, rows, log | {_REPORTED + name: value[seats.back] for name, value in reported.items()}

    def evaluate(self, algorithm: Algorithm, state: State, key: Array, data: FederatedData) -> dict[Score, Array]:
        """Scores of all clients, see `Simulation.evaluate`."""
        ids = jnp.arange(data.num_clients + data.num_unseen)
        known, unseen = ids[: data.num_clients], ids[data.num_clients :]
        scores = self.scores(algorithm, state.server, (known, state.clients), state.round, key, data)
        if data.num_unseen:
            scores |= self.unseen(algorithm, state.server, unseen, state.round, key, data)
        return scores

    def scores(
        self, algorithm: Algorithm, server: Tree, clients: Tree, number: Array, key: Array, data: FederatedData
    ) -> dict[Score, Array]:
        """Scores [n] after `number` rounds of `clients`, their ids [n] and their states [n, ...]."""

        def one(shared: Tree, client: Tree) -> dict[Score, Array]:
            return self._measured(algorithm, shared, *client)

        return self._over(one, self._shared(server, number, key, data), clients)

    def unseen(
        self, algorithm: Algorithm, server: Tree, ids: Array, number: Array, key: Array, data: FederatedData
    ) -> dict[Score, Array]:
        """Scores [n] of the clients `ids` [n], which never train."""
        clients = self.newcomers(algorithm, server, ids, number, key, data)
        scores = self.scores(algorithm, server, clients, number, key, data)
        return OrderedDict((score.of_unseen(), values) for score, values in scores.items())

    def newcomers(
        self, algorithm: Algorithm, server: Tree, ids: Array, number: Array, key: Array, data: FederatedData
    ) -> Tree:
        """Clients that never train, after their onboarding: ids [n] and states [n, ...]."""

        def one(shared: Tree, client: Tree) -> Tree:
            server, data, key = shared
            id, row = client
            download, view, own = algorithm.download(server, id), data.client(id), _client_key(key, id)
            return jax.lax.fori_loop(
                0,
                self.onboard_rounds,
                lambda step, row: algorithm.onboard(download, row, view, jax.random.fold_in(own, step)),
                row,
            )

        rows = self.clients(algorithm, server, ids, key)
        return ids, self._over(one, self._shared(server, number, key, data), (ids, rows))

    def personalized(
        self, algorithm: Algorithm, server: Tree, clients: Tree, number: Array, key: Array, data: FederatedData
    ) -> Tree:
        """What `clients` deploy, leaves [n, ...]."""

        def one(shared: Tree, client: Tree) -> Tree:
            return self._deployed(algorithm, shared, *client)[0]

        return self._over(one, self._shared(server, number, key, data), clients)

    def unseen_personalized(
        self, algorithm: Algorithm, server: Tree, ids: Array, number: Array, key: Array, data: FederatedData
    ) -> Tree:
        """What the clients `ids` [n], which never train, deploy, leaves [n, ...]."""
        clients = self.newcomers(algorithm, server, ids, number, key, data)
        return self.personalized(algorithm, server, clients, number, key, data)

    def _shared(
        self, server: Tree, number: Array, key: Array, data: FederatedData
    ) -> tuple[Tree, FederatedData, Array]:
        """What all clients read after `number` rounds: their examples are those of the last one."""
        key = jax.random.fold_in(jax.random.fold_in(key, number), _EVALUATION)
        return server, data.after(number), key

    def _deployed(self, algorithm: Algorithm, shared: Tree, id: Array, client: Tree) -> tuple[Tree, Params | None]:
        """What one client deploys, and the common model."""
        server, data, key = shared
        download = algorithm.download(server, id)
        common = algorithm.server_model(download, client) if algorithm.server_model else None
        return algorithm.personalize(download, client, data.client(id), _client_key(key, id)), common

    def _measured(self, algorithm: Algorithm, shared: Tree, id: Array, client: Tree) -> dict[Score, Array]:
        """Scores of one client's models on its own examples, in the order of the task."""
        _, data, _ = shared
        personal, common = self._deployed(algorithm, shared, id, client)
        predictors = {"personal": functools.partial(algorithm.predict or self.task.predict, personal)}
        predictors |= {} if common is None else {"global": functools.partial(self.task.predict, common)}
        views = {split: data.client(id, split) for split in ("validation", "test")}

        def of(rows: Rows) -> dict[str, dict[str, Array]]:
            return metrics.measure(self.task.metrics, predictors, views["test"].on(rows), capacity=self.capacity)

        rows = jax.tree.map(lambda *each: jnp.stack(each), *(Rows(view.start, view.size) for view in views.values()))
        measured = jax.lax.map(of, rows)  # one program for both splits
        return OrderedDict(
            (Score(model, split, metric), value[place])
            for model in predictors
            for place, split in enumerate(views)
            for metric, value in measured[model].items()
        )

    def _over(self, one: Callable[[Tree, Tree], Tree], shared: Tree, clients: Tree) -> Tree:
        """`one(shared, client)` for each of the clients, leaves [n, ...]."""
        count = jax.tree.leaves(clients)[0].shape[0]
        plan = walk.layout(count, self.block, self.axis)
        if plan.slots > count:
            seats = jnp.minimum(jnp.arange(plan.slots), count - 1)
            clients = jax.tree.map(lambda leaf: leaf[seats], clients)
        _, kept = walk.walk(lambda shared, client: ((), one(shared, client)), shared, clients, plan)
        return jax.tree.map(lambda leaf: leaf[:count], kept)
