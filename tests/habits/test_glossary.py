"""One name per concept, and a docstring on everything public; read from the source, so nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pfljax"
FILES = sorted(PACKAGE.rglob("*.py"))

SAY = {
    "client": "user users node nodes worker workers participant participants",
    "num_clients": "n_clients nclients num_users num_nodes clients_num",
    "cohort or ids": "selected selected_clients selected_ids active active_clients sampled_clients",
    "rounds": "iteration iterations global_rounds num_rounds n_rounds comm_rounds",
    "key": "rng rngs prng prng_key rng_key random_state random_key prngkey",
    "download or upload": "package message payload",
    "personalized or server model": "per_model local_model global_model per_params local_params global_params",
    "body or head": "base classifier",
    "lr": "learning_rate local_learning_rate local_lr stepsize step_size",
    "server_lr": "server_learning_rate global_lr",
    "lam": "lambda_ lamda lmbda lambd",
    "batch_size": "bs batchsize",
    "epochs": "local_epochs num_epochs n_epochs",
}
REPLACEMENT = {word: name for name, words in SAY.items() for word in words.split()}
FUNCTIONS = {"fit", "aggregate_fit", "train", "aggregate", "set_parameters", "get_parameters"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def _public(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """Public functions, classes and methods at the top of a module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for member in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(member, Function) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


def _names(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(name, annotation) of a function's parameters or of a class's fields."""
    if isinstance(node, Function):
        a = node.args
        for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]:
            yield arg.arg, ast.unparse(arg.annotation) if arg.annotation else ""
    elif isinstance(node, ast.ClassDef):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                yield field.target.id, ast.unparse(field.annotation)


PUBLIC = [pytest.param(n, node, id=f"{p.relative_to(PACKAGE)}:{n}") for p in FILES for n, node in _public(p)]


@pytest.mark.parametrize(("name", "node"), PUBLIC)
def test_names_are_those_of_the_glossary(name: str, node: ast.AST) -> None:
    """No second name for a client, a cohort, a key, a learning rate ...; a seed is an integer."""
    assert name.rpartition(".")[2] not in FUNCTIONS, f"{name} is a method's name elsewhere; say what it updates"
    for parameter, annotation in _names(node):
        assert parameter not in REPLACEMENT, f"{name}({parameter}): say {REPLACEMENT[parameter]}"
        assert not (parameter == "seed" and "Array" in annotation), (
            f"{name}(seed: {annotation}): a PRNG key is named key"
        )


@pytest.mark.parametrize(("name", "node"), PUBLIC)
def test_docstrings(name: str, node: ast.FunctionDef | ast.ClassDef) -> None:
    """Everything public says what it is, in a first line that is a sentence."""
    text = ast.get_docstring(node)
    assert text, f"{name} has no docstring"
    first = text.split("\n\n")[0]
    assert first.rstrip().endswith((".", ":", "?", "!", ";", "`", "::")), (
        f"the docstring of {name} opens with {first!r}"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_have_docstrings(path: Path) -> None:
    """A module says what it is for."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, f"{path.relative_to(PACKAGE)} has no docstring"
