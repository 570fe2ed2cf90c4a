"""`import pfljax` stays light, its names are listed, and files do not lean on one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ["pandas", "matplotlib", "sklearn", "tensorflow", "tensorflow_datasets", "torch", "wandb", "IPython"]
HEAVY += ["optuna", "submitit"]

PROBE = f"""
import sys, time
start = time.perf_counter()
import jax, flax, optax
before, middle = set(sys.modules), time.perf_counter()
import pfljax
print(f"jax, flax, optax {{middle - start:.2f}} s, pfljax {{time.perf_counter() - middle:.2f}} s", file=sys.stderr)
print([name for name in {HEAVY} if name in set(sys.modules) - before])
"""


def test_import_is_light() -> None:
    """Plotting, tables, datasets and trackers are imported where they are used."""
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    print(run.stderr)
    assert ast.literal_eval(run.stdout) == []


def test_every_listed_name_exists_once() -> None:
    """`__all__` is true; the linter keeps it sorted."""
    import pfljax

    assert len(pfljax.__all__) == len(set(pfljax.__all__))
    assert [name for name in pfljax.__all__ if not hasattr(pfljax, name)] == []


def test_version_is_the_same_everywhere() -> None:
    """The package, the project file, the citation and the changelog name one version."""
    import pfljax

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert pfljax.__version__ == version
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def _texts() -> list[Path]:
    """Files that git would commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    binary = {".npz", ".png", ".gz", ".npy", ".jpg", ".pdf"}
    return [p for name in listed.stdout.split("\0") if name and (p := ROOT / name).is_file() and p.suffix not in binary]


def test_no_path_or_host_of_one_machine() -> None:
    """No home, scratch or work folder, and no registry's host: they are somebody else's machine."""
    machine = re.compile(
        r"(?<![\w./~-])/(?:work|root|home|Users|tmp|opt|mnt|scratch)/\w|files\.pythonhosted|pypi\.org/simple"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in _texts()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if machine.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_jaxlib_and_no_upper_caps() -> None:
    """A cap, or a direct jaxlib, makes pip replace the accelerator build that is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
        assert not requirement.startswith("jaxlib"), requirement
        assert not re.search(r"<|==|~=", requirement), f"{requirement} has an upper cap"
