"""What a run deploys: a model for each client, for use here and elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from pfljax import checks, files
from pfljax.data.columns import Inputs
from pfljax.printing import in_brief
from pfljax.types import Tree


@in_brief
class Deployed(NamedTuple):
    """The model of one client."""

    name: str
    params: Tree  # a `Params`, or what else the method deploys
    outputs: Callable[[Tree, Tree], Tree]  # compiled: (params, x [B, ...]) -> outputs [B, ...]
    example: Tree  # shape and dtype of one input, without the batch's axis
    classes: tuple[str, ...] | None = None  # by name, where they have any
    inputs: Inputs | None = None  # how rows of a table are read
    number: int = -1  # of the client in `inputs`

    def predict(self, x: Tree) -> Tree:
        """Outputs [B, ...] (logits of a classifier) for inputs [B, ...], or rows of a table like the one it is from."""
        if self.inputs is not None and hasattr(x, "columns"):
            x = self.inputs.read(x, self.number)
        return jax.tree.map(np.asarray, self.outputs(self.params, x))

    def classify(self, x: Tree) -> np.ndarray:
        """The likeliest class of each example [B], by name where classes have one."""
        likeliest = np.argmax(self.predict(x), axis=-1)
        return likeliest if self.classes is None else np.array(self.classes)[likeliest]

    def save(self, out: str | Path) -> Path:
        """Writes the model for programs that know JAX and not this package.

        - `params/`: `{"trainable": ..., "stats": ...}`, or the fields of what else the method deploys, read by
          `orbax.checkpoint.StandardCheckpointer().restore`;
        - `predict.bin`: inputs [B, ...] to outputs [B, ...] for any B, the parameters included, read by
          `jax.export.deserialize(file.read_bytes()).call`;
        - `model.json`: the client's name, shape and dtype of an input, the names of the classes; of a table its
          columns: for a number what takes its place where it is missing, its mean and scale, then the categories.

        Args:
          out: a folder, made if missing.

        Raises:
          FileExistsError: if it holds a model already.
          PermissionError, OSError: if it cannot be written.
        """
        import orbax.checkpoint as ocp

        out = files.made(files.named(out)).absolute()
        if (out / "model.json").exists():
            raise FileExistsError(f"{out} holds a model already: choose another folder")
        rows = export.symbolic_shape("b")
        inputs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*rows, *leaf.shape), leaf.dtype), self.example)
        predict = export.export(jax.jit(functools.partial(self.outputs, self.params)), platforms=("cpu", "cuda", "tpu"))
        shapes = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", self.example)
        with files.writing(out / "params"), files.orbax_quiet(), ocp.StandardCheckpointer() as writer:
            writer.save(out / "params", _by_name(self.params), force=True)
        files.write(out / "predict.bin", bytes(predict(inputs).serialize()))
        about: dict[str, Any] = {"client": self.name, "input": shapes}
        about |= {} if self.classes is None else {"classes": list(self.classes)}
        about |= {} if self.inputs is None else {"columns": self.inputs.plain(self.number)}
        files.write_json(out / "model.json", about)
        return out


def _by_name(values: Tree) -> Tree:
    """Tuples with names as dictionaries, without the leaves that are not there."""
    if hasattr(values, "_asdict"):
        values = values._asdict()
    if not isinstance(values, Mapping):
        return values
    return {name: _by_name(part) for name, part in values.items() if part is not None}


Deploy = Callable[[int], Deployed]
"""What makes the model of a client by its number."""


class Models(Mapping[str, Deployed]):
    """The models that the clients of a run deploy, unseen ones last; each is made when it is asked for.

    Args:
      names: of all clients.
      ready: called once, at the first model; gives what makes the model of a client by its number.
    """

    def __init__(self, names: Sequence[str], ready: Callable[[], Deploy]):
        self._numbers = {name: number for number, name in enumerate(names)}
        self.ready = functools.cache(ready)

    def __getitem__(self, client: str | int) -> Deployed:
        """The model of a client, by name or by number.

        Raises:
          KeyError: if there is no such client.
        """
        number = self._numbers.get(client, -1) if isinstance(client, str) else int(client)
        if not 0 <= number < len(self):
            raise KeyError(f"no client {client!r}: {checks.nearest(client, self._numbers)}")
        return self.ready()(number)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __repr__(self) -> str:
        return f"models of {len(self)} clients, by name or number"
