"""The types that everything else is written in.

Axis letters, defined here once:

| letter | axis |
|---|---|
| N | clients of the population |
| M | slots of a round's cohort |
| T | examples of all clients, packed |
| B | examples of a minibatch |
| K | clusters |
| C | classes |

Every function inside an `Algorithm` is written for ONE client. The engine adds the client axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from pfljax.printing import in_brief

Array = jax.Array
Tree = Any


@in_brief
class Params(NamedTuple):
    """A model: what is descended, and what is only measured.

    Either part may hold `None` where a leaf belongs to the other half of a split (see `pfljax.tree.split`).
    """

    trainable: Tree
    stats: Tree = {}  # noqa: RUF012  running statistics of norm layers; never mutated


@in_brief
class Batch(NamedTuple):
    """A minibatch. Rows whose mask is 0 are padding and count for nothing."""

    x: Tree  # [B, ...]
    y: Array  # [B, ...]
    mask: Array  # [B] of {0., 1.}
    rows: Array | None = None  # [B] places among the client's examples, for what is kept for each example


@in_brief
class Examples(NamedTuple):
    """Examples of all clients, packed along one axis and kept in their storage dtype."""

    x: Tree  # [T, ...]
    y: Array  # [T, ...]


class Rows(NamedTuple):
    """Neighbouring rows of the shared arrays: those of one client ([] each), or of every client ([N + U] each)."""

    start: Any  # the first
    size: Any  # how many


@in_brief
class ClientData(NamedTuple):
    """A view of one client: its examples are the rows `start : start + size` of the shared arrays."""

    examples: Examples  # [T, ...] leaves, shared by all clients
    start: Array  # [] first row
    size: Array  # [] number of examples
    id: Array  # [] place in the population
    work: Array | float = 1.0  # [] share of its local steps that the client manages this round
    traits: Tree = ()  # its row of the table `FederatedData.traits`, such as its context or its group
    validation: Rows = Rows(0, 0)  # its validation examples
    public: Rows = Rows(0, 0)  # examples that everybody sees

    def on(self, rows: Rows) -> ClientData:
        """The same client with other examples, as in `data.on(data.validation)`."""
        return self._replace(start=rows.start, size=rows.size)


LossFn = Callable[[Params, Batch, Array], tuple[Array, Tree]]
"""`(params, batch, key) -> (loss [], new stats)`; a mean over the unmasked rows."""


@in_brief
class Model(NamedTuple):
    """A network in two parts, with the names that personalization needs: `outputs = head(features(x))`.

    Both parts are functions `(params, inputs, *, train=False, mask=None, key=None) -> (outputs, new stats)`. The head
    reads the leaves of the last block and no others, the features read the rest.
    """

    init: Callable[[Array], Params]  # key -> params
    features: Callable[..., tuple[Array, Tree]] | None  # x [B, ...] -> z [B, *features_shape]; None: the head reads x
    head: Callable[..., tuple[Tree, Tree]]  # z -> outputs [B, ...]
    blocks: tuple[str, ...] = ()  # path prefixes of the basic blocks, from input to output
    norms: tuple[str, ...] = ()  # paths of the normalisation modules
    features_shape: tuple[int, ...] = ()  # of one example

    def apply(self, params: Params, x: Tree, **mode: Any) -> tuple[Tree, Tree]:
        """Outputs [B, ...] and new statistics; `mode` is `train`, `mask` and `key`."""
        if self.features is None:
            return self.head(params, x, **mode)
        _, outputs, stats = self.apply_in_parts(params, x, **mode)
        return outputs, stats

    def apply_in_parts(self, params: Params, x: Tree, **mode: Any) -> tuple[Tree, Tree, Tree]:
        """Features z [B, *features_shape], outputs [B, ...] and new statistics.

        Raises:
          ValueError: if the model has no features.
        """
        if self.features is None:
            raise ValueError("the model has no features: it must end with a block, see pfljax.models.from_linen")
        z, stats = self.features(params, x, **mode)
        return z, *self.head(params._replace(stats=stats), z, **mode)


@in_brief
class Metric(NamedTuple):
    """A score of a client: a sum over its examples, and what becomes of the sum.

    The mask has the shape of y: 1 where a label counts, 0 for padding and for labels that are ignored.
    """

    name: str  # its words say which way it is better, see `results.scores.read`
    sum: Callable[[Tree, Array, Array], Tree]  # (outputs, y, mask) of a batch -> what adds up over batches
    finish: Callable[[Tree], Array]  # the sum -> [], NaN where it is not defined


@in_brief
class Task(NamedTuple):
    """What is learned: a model with its loss and its metrics."""

    init: Callable[[Array], Params]
    loss: LossFn
    predict: Callable[[Params, Tree], Tree]  # (params, x [B, ...]) -> outputs [B, ...]
    metrics: tuple[Metric, ...]  # what is measured; `loss` is what clusters are chosen by
    fits: Callable[[Tree, Any], None] | None = None  # (shapes of outputs, federation): raises where labels do not fit


@in_brief
class Plan(NamedTuple):
    """Which minibatches a client visits in a round."""

    steps: Callable[[ClientData], Array]  # data -> [], differs from client to client
    batch: Callable[[ClientData, Array, Array], Batch]  # (data, key, step) -> batch


LocalSolver = Callable[[LossFn, Params, ClientData, Array], Params]
"""`(loss, params, data, key) -> params` after local training."""

Mask = Callable[[Params], Params]
"""`params -> ` the same tree with a Python bool at each leaf."""


@in_brief
class Reply(NamedTuple):
    """What one client hands back."""

    upload: Tree = ()  # goes to the server
    client: Tree = ()  # stays with the client until it is sampled again
    metrics: dict[str, Array] = {}  # noqa: RUF012  named numbers [] for selectors and logs


@in_brief
class Cohort(NamedTuple):
    """What the server sees of a round."""

    ids: Array  # [M] ascending; N marks an empty slot
    uploads: Tree  # what `reduce` made of the uploads: one tree, or leaves [M, ...]
    weights: Array  # [M] examples of each client that replied, 0 for one that did not
    public: ClientData | None = None  # examples that everybody sees, as those of a client


class Draw(NamedTuple):
    """The clients of one round. Cohorts are sets: ids ascend, and the id N marks an empty slot."""

    ids: Array  # [M] ascending, N for an empty slot
    replied: Array  # [M] bool: trained and keeps what it learned; an empty slot does not
    work: Array  # [M] share of its local steps that the client manages
    heard: Array | None = None  # [M] bool: of those that replied, whose upload counts; None: all of them


Sampler = Callable[[Array, Array], Draw]
"""`(key, sizes [N]) -> Draw`."""


def as_it_is(reduce: Reduce) -> Reduce:
    """A reduction that takes another one's place."""
    return reduce


@in_brief
class Selector(NamedTuple):
    """Who takes part in a round, chosen by what clients have reported: a sampler with a memory."""

    init: Callable[[int], Tree]  # number of clients -> memory
    sampler: Callable[[Tree], Sampler]  # memory -> who is drawn now
    observe: Callable[[Tree, Draw, Mapping[str, Array]], Tree]  # (memory, draw, metrics [M] of the replies) -> memory
    needs: tuple[str, ...] = ()  # names of the metrics that it observes


@in_brief
class Reduce(NamedTuple):
    """How uploads become one value. A summed reduction needs the memory of one term, whatever the cohort.

    One that is not summed is handed all terms, those of weight 0 among them, which count for nothing.
    """

    lift: Callable[[Tree, Array], Tree]  # (upload of ONE client, weight []) -> term
    lower: Callable[[Tree, Array], Tree]  # (sum of the terms, or the terms [M, ...]; weights [M]) -> uploads
    summed: bool = True
    instead: Callable[[Reduce], Reduce] = as_it_is  # another reduction -> the one that takes this one's place


def as_drawn(sampler: Sampler) -> Sampler:
    """Participation as the sampler has it: whom it draws trains."""
    return sampler


def keep(download: Tree, client: Tree, data: ClientData, key: Array) -> Tree:
    """Onboarding that leaves a newcomer's initial state as it is."""
    del download, data, key
    return client


@in_brief
class Algorithm(NamedTuple):
    """A federated learning method as pure functions of ONE client and of the server.

    A round is `download -> client_update` for each client of the cohort, `reduce`, then `server_update`.
    Uploads are differences `received - result`, so their mean is a pseudo-gradient.

    An unseen client is served by `init_client`, then `onboard` (any number of times), then `personalize`. What a client
    deploys is a `Params`, or any tree that the method's own `predict` reads.
    """

    init_server: Callable[[Array, int], Tree]  # (key, number of clients) -> server
    download: Callable[[Tree, Array], Tree]  # (server, id) -> all that client `id` sees of the server
    init_client: Callable[[Tree, Array, Array], Tree]  # (download, id, the SAME key as init_server) -> client
    client_update: Callable[[Tree, Tree, ClientData, Array], Reply]  # (download, client, data, key) -> reply
    server_update: Callable[[Tree, Cohort, Array], Tree]  # (server, cohort, key) -> server
    personalize: Callable[[Tree, Tree, ClientData, Array], Tree]  # (download, client, data, key) -> what it deploys
    reduce: Reduce
    onboard: Callable[[Tree, Tree, ClientData, Array], Tree] = keep  # (download, client, data, key) -> client
    server_model: Callable[[Tree, Tree], Params] | None = None  # (download, client) -> the common model, if any
    participation: Callable[[Sampler], Sampler] = as_drawn  # the run's sampler -> who trains in this method
    predict: Callable[[Tree, Tree], Tree] | None = None  # (deployed, x) -> outputs; None: the task's, of `Params`
    wire: Callable[[Tree], int] | None = None  # shapes of an upload -> its bytes, if not those of the leaves
    sent: Callable[[Tree], Tree] | None = None  # download -> what of it one of the cohort is sent; None: all of it
    kinds: tuple[Algorithm, ...] = ()  # where clients are of several kinds: what those of each do, see federation.kinds

    def of(self, kind: int) -> Algorithm:
        """What clients of a kind do; its server half counts for nothing."""
        return self.kinds[kind] if self.kinds else self


@in_brief
class State(NamedTuple):
    """A run between two rounds."""

    server: Tree
    clients: Tree  # leaves [N, ...]; of several kinds a tuple of such trees, each of the clients of its kind
    round: Array  # [] rounds done
    selector: Tree = ()  # what the selector remembers
