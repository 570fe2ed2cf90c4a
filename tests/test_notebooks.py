"""Notebooks run from top to bottom, and are what their sources say."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_runs(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PFLJAX_FAST", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in printed)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_its_source(source: Path):
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    wanted = [(cell.cell_type, cell.source) for cell in jupytext.read(source).cells]
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == wanted, "make notebooks"


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_installs_what_it_needs(source: Path, tmp_path: Path):
    """As on a runtime without pfljax: the cells as they stand, with this checkout in the place of the repository."""
    repository, bare = tmp_path / "repository", tmp_path / "bare"
    shutil.copytree(ROOT / "pfljax", repository / "pfljax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, repository)
    git = ["git", "-C", str(repository), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=as it is"]):
        subprocess.run([*git, *command], check=True)

    venv.create(bare, with_pip=True)
    python = bare / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PFLJAX_FAST": "1",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/pfljax/pfljax",
    }
    subprocess.run([python, "-m", "pip", "install", "--quiet", "ipykernel", "nbclient"], env=environment, check=True)
    shutil.copy(source.with_suffix(".ipynb"), tmp_path / "run.ipynb")
    command = [python, "-m", "jupyter", "execute", "--inplace", "--timeout=900", "run.ipynb"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    cells = nbformat.read(tmp_path / "run.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    found = list(bare.glob("lib/python*/site-packages/pfljax/__init__.py"))
    assert found, "pfljax came from elsewhere"
