"""Where the clients' states live: on the devices, or in host memory. Results are the same to the bit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import tree
from pfljax.data import FederatedData
from pfljax.engine import hosts, memory, rows
from pfljax.engine.census import apart, of_all, together
from pfljax.engine.course import Log
from pfljax.engine.rounds import Rounds
from pfljax.engine.site import Site, Traced
from pfljax.types import Algorithm, Array, State, Tree

Store = Literal["auto", "device", "host"]
"""Where the clients' states live."""

# On an accelerator the states may take this share of the free memory; the rest is for training.
_DEVICE_SHARE = 0.4

OfClients = Callable[..., Tree]
"""A method of `Rounds`: `(rounds, algorithm, server, clients, number, key, data) -> leaves [n, ...]`."""


class Residence(Protocol):
    """What a simulation asks of the place where client states live."""

    def init(self, key: Array, hyper: Traced) -> State:
        """The state before the first round."""
        ...

    def advance(self, state: State, key: Array, rounds: int, at_most: int, hyper: Traced) -> tuple[State, Log]:
        """`rounds` more rounds, by a program that serves any number up to `at_most`."""
        ...

    def evaluate(self, state: State, key: Array, hyper: Traced) -> dict[str, Array]:
        """Scores of all clients, those that never train among them."""
        ...

    def personalized(self, state: State, key: Array, hyper: Traced) -> Tree:
        """What the training clients deploy, leaves [N, ...]."""
        ...

    def rows(self, state: State, ids: np.ndarray, kind: int) -> Tree:
        """The states of clients `ids` [n] of a kind, leaves [n, ...]."""
        ...


def choose(store: Store, site: Site, hyper: Traced) -> Residence:
    """The device, or host memory if that is asked for, or if it is left open and the device lacks the room."""
    if store == "auto" and not hosts.together():
        free = None if site.devices[0].platform == "cpu" else memory.available(site.devices[0])
        states = sum(len(ids) * tree.nbytes(site.row(hyper, kind)) for kind, ids in enumerate(site.members()))
        tight = free is not None and states > _DEVICE_SHARE * free
        store = "host" if tight else "device"
    return OnHost(site) if store == "host" else OnDevice(site)


def part(
    site: Site, name: str, function: OfClients, state: State, clients: Tree, kind: int, key: Array, hyper: Traced
) -> Tree:
    """`function` of `clients` of a kind, ids and states or, of those that never train, ids alone."""

    def of(server: Tree, clients: Tree, number: Array, key: Array, hyper: Traced, data: FederatedData) -> Tree:
        return function(site.rounds, site.deployed(hyper, number), server, clients, number, key, data, kind)

    return site.programs.call((name, kind), of, state.server, clients, state.round, key, hyper, site.data)


@dataclass(frozen=True)
class OnDevice:
    """States on the devices: a run of rounds is one program."""

    site: Site

    def init(self, key: Array, hyper: Traced) -> State:
        """See `Residence`."""
        site = self.site

        def init(key: Array, hyper: Traced, train: FederatedData) -> State:
            return site.rounds.init(site.algorithm(hyper), key, train)

        return site.programs.call("init", init, key, hyper, site.train, out=site.placement(), quick=True)

    def advance(self, state: State, key: Array, rounds: int, at_most: int, hyper: Traced) -> tuple[State, Log]:
        """See `Residence`."""
        site = self.site

        def advance(state: State, key: Array, hyper: Traced, train: FederatedData, rounds: Array) -> Tree:
            def algorithm(number: Array) -> Algorithm:
                return site.algorithm(hyper, number)

            return site.rounds.advance(algorithm, state, key, train, rounds, at_most)

        args = site.placed(state), key, hyper, site.train, jnp.asarray(rounds)
        out = site.placement(), site.everywhere
        state, logs = site.programs.call(("rounds", at_most), advance, *args, donate=(0,), out=out)
        return state, {name: np.asarray(leaf)[:rounds] for name, leaf in logs.items()}

    def evaluate(self, state: State, key: Array, hyper: Traced) -> dict[str, Array]:
        """See `Residence`."""
        site = self.site

        def evaluate(state: State, key: Array, hyper: Traced, data: FederatedData) -> Tree:
            return site.rounds.evaluate(site.deployed(hyper, state.round), state, key, data)

        return site.programs.call(
            "evaluation", evaluate, site.placed(state), key, hyper, site.data, out=site.everywhere
        )

    def personalized(self, state: State, key: Array, hyper: Traced) -> Tree:
        """See `Residence`."""
        site = self.site

        def personalized(state: State, key: Array, hyper: Traced, data: FederatedData) -> Tree:
            deployed, states = site.deployed(hyper, state.round), apart(state.clients, site.rounds.census)
            return together([
                site.rounds.personalized(deployed, state.server, clients, state.round, key, data, kind)
                for kind, clients in enumerate(zip(site.rounds.members(data)[0], states, strict=True))
            ])  # fmt: skip

        return site.programs.call("personalized", personalized, site.placed(state), key, hyper, site.data)

    def rows(self, state: State, ids: np.ndarray, kind: int) -> Tree:
        """See `Residence`."""
        own, places = apart(state.clients, self.site.rounds.census)[kind], self.site.places(ids, kind)
        return jax.tree.map(lambda leaf: leaf[places], own)


@dataclass(frozen=True)
class OnHost:
    """States in host memory: a round is a program, and the next cohort is fetched while the present one trains."""

    site: Site

    def init(self, key: Array, hyper: Traced) -> State:
        """See `Residence`."""
        site = self.site

        def server(key: Array, hyper: Traced) -> Tree:
            return site.rounds.server(site.algorithm(hyper), key, site.train.num_clients)

        common = site.programs.call("server", server, key, hyper, out=site.everywhere, quick=True)
        hosted = together([self._begun(common, ids, kind, key, hyper) for kind, ids in enumerate(site.members())])
        start = jnp.asarray(0), site.rounds.selector.init(site.train.num_clients)
        return State(common, hosted, *jax.device_put(start, site.everywhere))

    def advance(self, state: State, key: Array, rounds: int, at_most: int, hyper: Traced) -> tuple[State, Log]:
        """See `Residence`."""
        if jax.tree.leaves(state.selector):  # who is drawn depends on the round before
            logs = []
            for _ in range(rounds):
                state, log = self._advance(state, key, 1, 1, hyper)
                logs.append(log)
            return state, jax.tree.map(lambda *each: np.concatenate(each), *logs)
        return self._advance(state, key, rounds, at_most, hyper)

    def evaluate(self, state: State, key: Array, hyper: Traced) -> dict[str, Array]:
        """See `Residence`."""
        scores = of_all(self._over("scores", Rounds.scores, state, key, hyper))
        if self.site.data.num_unseen:
            scores |= of_all(self._over("unseen", Rounds.unseen, state, key, hyper, unseen=True))
        return scores

    def personalized(self, state: State, key: Array, hyper: Traced) -> Tree:
        """See `Residence`. In host memory."""
        return together([made for _, made in self._over("personalized", Rounds.personalized, state, key, hyper)])

    def rows(self, state: State, ids: np.ndarray, kind: int) -> Tree:
        """See `Residence`."""
        return rows.read(apart(state.clients, self.site.rounds.census)[kind], self.site.places(ids, kind))

    def _begun(self, server: Tree, ids: np.ndarray, kind: int, key: Array, hyper: Traced) -> rows.Hosted:
        """The states of the clients of a kind before their first round."""
        site, row = self.site, self.site.row(hyper, kind)

        def clients(key: Array, hyper: Traced, server: Tree, ids: Array) -> Tree:
            return site.rounds.clients(site.algorithm(hyper), server, ids, key, kind)

        hosted = rows.allocate(row, len(ids))
        for some in rows.chunks(row, len(ids)):
            begun = site.programs.call(("clients", kind), clients, key, hyper, server, ids[some], quick=True)
            rows.write(hosted, some, begun)
        return hosted

    def _advance(self, state: State, key: Array, rounds: int, at_most: int, hyper: Traced) -> tuple[State, Log]:
        """Rounds whose cohorts are all drawn before the first."""
        site = self.site
        draws, seats = jax.tree.map(np.asarray, self._cohorts(state, key, at_most, hyper))
        server, hosted, number, memory = state
        kinds, sizes = apart(hosted, site.rounds.census), list(map(len, site.members()))
        logs, stored, before = [], [], None
        previous = [np.full_like(at[0], -1) for at in seats.places]
        with rows.Courier() as courier:
            fetched = courier.fetch(kinds, [at[0] for at in seats.places])
            for n in range(rounds):
                own = jax.device_put(fetched.result(), site.spread)
                if n + 1 < rounds:
                    fetched = courier.fetch(kinds, [at[n + 1] for at in seats.places])
                present = [at[n] for at in seats.places]
                sat = list(map(rows.places, present, previous, sizes))
                cohort = jax.tree.map(operator.itemgetter(n), (draws, seats))
                late = own, own if before is None else before, sat
                server, before, log, number, memory = self._round(server, late, number, memory, cohort, key, hyper)
                stored.append(courier.store(kinds, present, before))
                previous = present
                logs.append(log)
        for done in stored:
            done.result()
        log = jax.tree.map(lambda *each: np.stack([np.asarray(row) for row in each]), *logs)
        return State(server, hosted, number, memory), log

    def _cohorts(self, state: State, key: Array, count: int, hyper: Traced) -> Tree:
        """Draws and seats of the next `count` rounds."""
        site = self.site

        def cohorts(first: Array, memory: Tree, key: Array, hyper: Traced, train: FederatedData) -> Tree:
            def one(number: Array) -> Tree:
                now = train.at(number)
                draw = site.rounds.draw(site.algorithm(hyper, number), memory, key, number, now)
                return draw, site.rounds.seat(draw, now)

            return jax.lax.map(one, first + jnp.arange(count))

        args = state.round, state.selector, key, hyper, site.train
        return site.programs.call(("cohorts", count), cohorts, *args, out=site.everywhere)

    def _round(
        self, server: Tree, late: Tree, number: Array, memory: Tree, cohort: Tree, key: Array, hyper: Traced
    ) -> Tree:
        """A round: the server, the cohort's new rows, the log, the number of the next round, what is remembered.

        Args:
          server: before the round.
          late: of each kind rows as they were fetched, those that the round before computed, and where who was in it
            sat there.
          number: of the round.
          memory: of the selector.
          cohort: its draw and its seats.
          key, hyper: of the run.
        """
        site = self.site

        def train(server: Tree, late: Tree, number: Array, memory: Tree, cohort: Tree, *rest: Tree) -> Tree:
            (draw, seats), (key, hyper, train) = cohort, rest
            own, algorithm = list(map(rows.patched, *late)), site.algorithm(hyper, number)
            now = train.at(number)
            server, own, log = site.rounds.seated_round(algorithm, server, own, number, draw, seats, key, now)
            return server, own, log, number + 1, site.rounds.observe(memory, draw, log)

        out = site.everywhere, site.spread, *[site.everywhere] * 3
        args = server, late, number, memory, cohort, key, hyper, site.train
        return site.programs.call("round", train, *args, out=out)

    def _over(
        self, name: str, function: OfClients, state: State, key: Array, hyper: Traced, *, unseen: bool = False
    ) -> list[tuple[np.ndarray, Tree]]:
        """`function` of all clients, or of those that never train, a chunk at a time: ids and results of each kind."""
        site, results = self.site, []
        for kind, ids in enumerate(site.members(unseen=unseen)):
            parts = []
            for some in rows.chunks(site.row(hyper, kind), len(ids)):
                mine = ids[some]
                clients = mine if unseen else (mine, self.rows(state, mine, kind))
                parts.append(jax.tree.map(np.asarray, part(site, name, function, state, clients, kind, key, hyper)))
            if parts:
                whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(ids)], *parts)  # noqa: B023
                results.append((ids, whole))
        return results
