"""A round, a run of rounds, an evaluation: pure functions of a state and a federation, for others to compile."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from pfljax import tree
from pfljax.data import FederatedData
from pfljax.engine import census, walk
from pfljax.engine.census import Census, alike, apart, in_a_row, of_all, together
from pfljax.engine.mesh import Axis
from pfljax.learning import metrics
from pfljax.results.scores import Score
from pfljax.types import Algorithm, Array, Cohort, Draw, Params, Reduce, Rows, Selector, State, Task, Tree

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
    """The cohort of a round in the order in which it is walked, kind by kind."""

    walked: tuple[Seat, ...]  # of each kind, leaves [slots]
    places: tuple[Array, ...]  # of each kind, [slots] the rows of the clients' states, beyond the last for padding
    back: Array  # [M] the seat of each slot of the draw, counted through all kinds


class Stays(NamedTuple):
    """What a seat leaves behind besides its upload."""

    client: Tree  # the client's new state
    finite: Array  # whether the reply was
    metrics: dict[str, Array]  # that the client reports


@dataclass(frozen=True)
class Rounds:
    """The rounds of any algorithm.

    Args:
      tasks: the model of each kind of clients, for predictions.
      selector: who takes part in a round.
      blocks: clients of each kind trained at once.
      axis: devices that share the clients, None for one device.
      onboard_rounds: rounds of onboarding for each unseen client.
      capacity: validation or test examples of the largest client.
      census: how many clients of each kind train and are unseen; empty where all clients are of one kind.

    Functions of some clients, by their ids, are of clients of one `kind`.
    """

    tasks: tuple[Task, ...]
    selector: Selector
    blocks: tuple[int, ...]
    axis: Axis | None
    onboard_rounds: int
    capacity: int
    census: Census = ()

    def members(self, data: FederatedData) -> tuple[list[Array], list[Array]]:
        """The ids of the clients of each kind, ascending: of those that train, and of the unseen ones."""
        ids = jnp.arange(data.num_clients + data.num_unseen)
        known, unseen = ids[: data.num_clients], ids[data.num_clients :]
        if not self.census:
            return [known], [unseen]
        known_counts, unseen_counts = zip(*self.census, strict=True)
        return census.members(data, known, known_counts), census.members(data, unseen, unseen_counts)

    def clients(self, algorithm: Algorithm, server: Tree, ids: Array, key: Array, kind: int = 0) -> Tree:
        """The states of clients `ids` [n] before their first round, leaves [n, ...]."""
        algorithm, key = algorithm.of(kind), jax.random.fold_in(key, _INIT)
        return jax.vmap(lambda id: algorithm.init_client(algorithm.download(server, id), id, key))(ids)

    def server(self, algorithm: Algorithm, key: Array, num_clients: int) -> Tree:
        """The server before the first round."""
        return algorithm.init_server(jax.random.fold_in(key, _INIT), num_clients)

    def init(self, algorithm: Algorithm, key: Array, train: FederatedData) -> State:
        """The state before the first round."""
        server = self.server(algorithm, key, train.num_clients)
        parts = [self.clients(algorithm, server, ids, key, kind) for kind, ids in enumerate(self.members(train)[0])]
        return State(server, together(parts), jnp.asarray(0), self.selector.init(train.num_clients))

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
        seats, parts = self.seat(draw, train), apart(state.clients, self.census)
        rows = [
            jax.tree.map(lambda leaf, at=at: jnp.take(leaf, at, axis=0, mode="clip"), part)
            for part, at in zip(parts, seats.places, strict=True)
        ]
        server, rows, log = self.seated_round(algorithm, state.server, rows, state.round, draw, seats, key, train)
        parts = [
            jax.tree.map(lambda leaf, new, at=at: leaf.at[at].set(new, mode="drop"), part, own)
            for part, own, at in zip(parts, rows, seats.places, strict=True)
        ]
        return State(server, together(parts), state.round + 1, self.observe(state.selector, draw, log)), log

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
        """The order in which a cohort is walked: the kinds of clients one after the other."""
        if not self.census:
            walked, back = self._seat(draw, train, self.blocks[0])
            return Seats((walked,), (walked.id,), back)
        empty = draw.ids >= train.num_clients
        kinds = jnp.where(empty, -1, jnp.take(census.numbers(train), draw.ids, mode="clip"))
        seated, places, back, first = [], [], jnp.zeros(draw.ids.shape, int), 0
        for kind, (count, _) in enumerate(self.census):
            mine = kinds == kind
            own = census.of_kind(draw, mine, min(count, len(mine)), train.num_clients)
            walked, seats = self._seat(own, train, self.blocks[kind])
            back = jnp.where(mine, first + jnp.take(seats, jnp.cumsum(mine) - 1, mode="clip"), back)
            places.append(census.places(train, walked.id, kind, count))
            seated.append(walked)
            first += len(walked.id)
        free = jnp.argmax(jnp.concatenate([walked.id for walked in seated]))  # where somebody is missing, an empty seat
        return Seats(tuple(seated), tuple(places), jnp.where(empty, free, back))

    def _seat(self, draw: Draw, train: FederatedData, block: int) -> tuple[Seat, Array]:
        """The order in which clients of a kind are walked, those of like cost together: seats [slots], and the seat of
        each slot of the draw."""
        cohort, num_clients = draw.ids.shape[0], train.num_clients
        plan = walk.layout(cohort, block, self.axis)
        padding = plan.slots - cohort
        ids = jnp.pad(draw.ids, (0, padding), constant_values=num_clients)
        drawn = draw.replied, draw.work, draw.heard
        replied, work, heard = jax.tree.map(lambda part: jnp.pad(part, (0, padding)), drawn)
        sizes = jnp.where(replied, jnp.take(train.train.size[:num_clients], ids, mode="clip"), 0).astype(float)
        weights = jnp.where(heard, sizes, 0)
        order = walk.order(sizes * work, plan)
        walked = jax.tree.map(lambda part: part[order], Seat(ids, replied, work, weights))
        return walked, jnp.argsort(order)[:cohort]

    def seated_round(
        self,
        algorithm: Algorithm,
        server: Tree,
        rows: Sequence[Tree],
        number: Array,
        draw: Draw,
        seats: Seats,
        key: Array,
        train: FederatedData,
    ) -> tuple[Tree, list[Tree], Logs]:
        """Round `number` of the clients on `seats`, whose states are the `rows` [slots, ...] of each kind.

        Like `draw` and `seat` it takes the federation as it is in that round.

        Returns:
          The new server, the new rows, and what happened.
        """
        key = jax.random.fold_in(key, number)
        reduce = algorithm.reduce
        shared = server, train, key
        walks = [
            self._walked(algorithm.of(kind), reduce, shared, seats.walked[kind], own, self._plan(kind, draw))
            for kind, own in enumerate(rows)
        ]
        totals, stays = [list(each) for each in zip(*walks, strict=True)]

        def drawn(rows: Sequence[Tree]) -> Tree:
            """Rows of each kind's seats as those of the draw."""
            return jax.tree.map(lambda leaf: leaf[seats.back], in_a_row(rows))

        sent = alike(totals, rows=not reduce.summed)
        terms = functools.reduce(tree.add, sent) if reduce.summed else drawn(sent)
        weights = drawn([walked.weight for walked in seats.walked])
        view = Cohort(draw.ids, reduce.lower(terms, weights), weights, train.everybodys())
        updated = algorithm.server_update(server, view, jax.random.fold_in(key, _SERVER))
        updated = tree.where(jnp.any(weights > 0), updated, server)
        log = draw._asdict() | {"finite": drawn([kept.finite for kept in stays]), "server_finite": tree.finite(updated)}
        reported = drawn([kept.metrics for kept in stays])
        log |= {_REPORTED + name: value for name, value in reported.items()}
        return updated, [kept.client for kept in stays], log

    def _walked(
        self, algorithm: Algorithm, reduce: Reduce, shared: Tree, walked: Seat, rows: Tree, plan: walk.Layout
    ) -> tuple[Tree, Stays]:
        """The clients of one kind train.

        Returns:
          The sum of the terms of their uploads, or the terms [slots, ...], and what they leave behind.
        """

        def one(shared: Tree, row: tuple[Seat, Tree]) -> tuple[Tree, Tree]:
            server, train, key = shared
            (id, replied, work, weight), client = row
            data = train.client(id)._replace(work=jnp.where(replied, work, 0))
            reply = algorithm.client_update(algorithm.download(server, id), client, data, _client_key(key, id))
            # 0 * NaN is NaN: the upload of who is not heard is 0 before its weight of 0 meets it.
            upload = jax.tree.map(lambda leaf: jnp.where(weight > 0, leaf, jnp.zeros((), leaf.dtype)), reply.upload)
            term = reduce.lift(upload, weight)
            kept = tree.where(replied, reply.client, client)
            stays = Stays(kept, tree.finite((reply.upload, reply.client)) | ~replied, reply.metrics)
            return (term, stays) if reduce.summed else ((), (stays, term))

        total, kept = walk.walk(one, shared, (walked, rows), plan)
        return (total, kept) if reduce.summed else kept[::-1]

    def _plan(self, kind: int, draw: Draw) -> walk.Layout:
        """How the seats of a kind are cut."""
        cohort = draw.ids.shape[0]
        seats = min(self.census[kind][0], cohort) if self.census else cohort
        return walk.layout(seats, self.blocks[kind], self.axis)

    def evaluate(self, algorithm: Algorithm, state: State, key: Array, data: FederatedData) -> dict[Score, Array]:
        """Scores of all clients, see `Simulation.evaluate`."""
        known, unseen = self.members(data)
        scores = of_all(
            (ids, self.scores(algorithm, state.server, (ids, part), state.round, key, data, kind))
            for kind, (ids, part) in enumerate(zip(known, apart(state.clients, self.census), strict=True))
        )
        if data.num_unseen:
            scores |= of_all(
                (ids, self.unseen(algorithm, state.server, ids, state.round, key, data, kind))
                for kind, ids in enumerate(unseen)
                if len(ids)
            )
        return scores

    def scores(
        self,
        algorithm: Algorithm,
        server: Tree,
        clients: Tree,
        number: Array,
        key: Array,
        data: FederatedData,
        kind: int = 0,
    ) -> dict[Score, Array]:
        """Scores [n] after `number` rounds of `clients`, their ids [n] and their states [n, ...]."""

        def one(shared: Tree, client: Tree) -> dict[Score, Array]:
            return self._measured(algorithm.of(kind), self.tasks[kind], shared, *client)

        return self._over(one, self._shared(server, number, key, data), clients, kind)

    def unseen(
        self,
        algorithm: Algorithm,
        server: Tree,
        ids: Array,
        number: Array,
        key: Array,
        data: FederatedData,
        kind: int = 0,
    ) -> dict[Score, Array]:
        """Scores [n] of the clients `ids` [n], which never train."""
        clients = self.newcomers(algorithm, server, ids, number, key, data, kind)
        scores = self.scores(algorithm, server, clients, number, key, data, kind)
        return OrderedDict((score.of_unseen(), values) for score, values in scores.items())

    def newcomers(
        self,
        algorithm: Algorithm,
        server: Tree,
        ids: Array,
        number: Array,
        key: Array,
        data: FederatedData,
        kind: int = 0,
    ) -> Tree:
        """Clients that never train, after their onboarding: ids [n] and states [n, ...]."""
        rows, algorithm = self.clients(algorithm, server, ids, key, kind), algorithm.of(kind)

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

        return ids, self._over(one, self._shared(server, number, key, data), (ids, rows), kind)

    def personalized(
        self,
        algorithm: Algorithm,
        server: Tree,
        clients: Tree,
        number: Array,
        key: Array,
        data: FederatedData,
        kind: int = 0,
    ) -> Tree:
        """What `clients` deploy, leaves [n, ...]."""

        def one(shared: Tree, client: Tree) -> Tree:
            return self._deployed(algorithm.of(kind), shared, *client)[0]

        return self._over(one, self._shared(server, number, key, data), clients, kind)

    def unseen_personalized(
        self,
        algorithm: Algorithm,
        server: Tree,
        ids: Array,
        number: Array,
        key: Array,
        data: FederatedData,
        kind: int = 0,
    ) -> Tree:
        """What the clients `ids` [n], which never train, deploy, leaves [n, ...]."""
        clients = self.newcomers(algorithm, server, ids, number, key, data, kind)
        return self.personalized(algorithm, server, clients, number, key, data, kind)

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

    def _measured(self, algorithm: Algorithm, task: Task, shared: Tree, id: Array, client: Tree) -> dict[Score, Array]:
        """Scores of one client's models on its own examples, in the order of the task."""
        _, data, _ = shared
        personal, common = self._deployed(algorithm, shared, id, client)
        predictors = {"personal": functools.partial(algorithm.predict or task.predict, personal)}
        predictors |= {} if common is None else {"global": functools.partial(task.predict, common)}
        views = {split: data.client(id, split) for split in ("validation", "test")}

        def of(rows: Rows) -> dict[str, dict[str, Array]]:
            return metrics.measure(task.metrics, predictors, views["test"].on(rows), capacity=self.capacity)

        rows = jax.tree.map(lambda *each: jnp.stack(each), *(Rows(view.start, view.size) for view in views.values()))
        measured = jax.lax.map(of, rows)  # one program for both splits
        return OrderedDict(
            (Score(model, split, metric), value[place])
            for model in predictors
            for place, split in enumerate(views)
            for metric, value in measured[model].items()
        )

    def _over(self, one: Callable[[Tree, Tree], Tree], shared: Tree, clients: Tree, kind: int) -> Tree:
        """`one(shared, client)` for each of the clients, leaves [n, ...]."""
        count = jax.tree.leaves(clients)[0].shape[0]
        plan = walk.layout(count, self.blocks[kind], self.axis)
        if plan.slots > count:
            seats = jnp.minimum(jnp.arange(plan.slots), count - 1)
            clients = jax.tree.map(lambda leaf: leaf[seats], clients)
        _, kept = walk.walk(lambda shared, client: ((), one(shared, client)), shared, clients, plan)
        return jax.tree.map(lambda leaf: leaf[:count], kept)
