"""Which rivals there are, and which of them a command line means."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from pfljax.benchmark import Contender

RIVALS = Path(__file__).parent / "rivals"
# The library of a rival where it has another name; one that is only ever given as a folder has none.
_LIBRARIES = {"pytorch": "torch", "pytorch_stacked": "torch", "pfl_research": "pfl", "pfllib": None}


def rival_names() -> list[str]:
    """The rivals that there are adapters for."""
    return sorted(path.stem for path in RIVALS.glob("*.py") if "\ndef prepare(" in path.read_text())


def find_rivals(chosen: Iterable[str], pythons: Mapping[str, str] | None = None) -> list[Contender]:
    """Contenders from texts `NAME`, `NAME=SOURCE`, `FILE.py`, or `auto` for those whose library can be imported.

    Args:
      chosen: the texts.
      pythons: name -> interpreter in which the rival's library is installed.

    Raises:
      ValueError: if there is no adapter of that name, or no such file.
    """
    pythons, found = dict(pythons or {}), {}

    def add(file: Path, source: str = "") -> None:
        found[file.stem] = Contender(file.stem, str(file.resolve()), source or None, pythons.get(file.stem))

    for text in chosen:
        name, _, source = text.partition("=")
        if text == "auto":
            for known in rival_names():
                if known not in found and (known in pythons or _importable(known)):
                    add(RIVALS / f"{known}.py")
        elif name.endswith(".py"):
            if not Path(name).is_file():
                raise ValueError(f"rival {name!r}: there is no such file")
            add(Path(name), source)
        elif name in rival_names():
            add(RIVALS / f"{name}.py", source)
        else:
            raise ValueError(f"unknown rival {name!r}: there are {', '.join(rival_names())}, auto, or a file NAME.py")
    return list(found.values())


def _importable(name: str) -> bool:
    library = _LIBRARIES.get(name, name)
    return library is not None and importlib.util.find_spec(library) is not None
