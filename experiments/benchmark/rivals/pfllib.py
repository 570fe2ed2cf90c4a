"""PFLlib: its own servers and clients, from a folder with its sources.

A round is one pass of the server's own `train` loop, with the evaluations and the saving of results switched off.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .layers import Examples, channels_first, same_size
from .threads import fastest_for

SERVERS = {
    "ditto": ("serverditto", "Ditto"),
    "fedavg": ("serveravg", "FedAvg"),
    "fedper": ("serverper", "FedPer"),
    "per_fedavg": ("serverperavg", "PerAvg"),
    "pfedme": ("serverpFedMe", "pFedMe"),
}
"""Method -> module and class under `flcore.servers`."""


def about() -> dict[str, str]:
    """Versions (PFLlib itself has none), the device, and the number of threads that was chosen."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"torch": torch.__version__, "device": device, "threads": str(torch.get_num_threads())}


def prepare(workload: dict[str, Any], examples: Examples, source: str | None) -> Callable[[], None]:
    """One round of PFLlib's server, as its `train` runs it: send, train the selected clients, receive, aggregate.

    The examples are written as PFLlib's own data generator writes them (compressed files of float32) into a temporary
    folder, which becomes the working directory: each client reads its file in each round. As PFLlib has it, the last
    batch of an epoch is left out if it is not full.

    Args:
      workload: what to run.
      examples: the clients' arrays.
      source: a checkout of PFLlib.

    Raises:
      ValueError: if `source` has no `system` folder.
      NotImplementedError: for a method or a model without a counterpart there.
    """
    system = Path(source or ".").resolve() / "system"
    if not (system / "flcore").is_dir():
        raise ValueError(f"{source!r} is no checkout of PFLlib: it has no system/flcore; give the folder it lies in")
    if workload["method"] not in SERVERS:
        raise NotImplementedError(f"no counterpart to {workload['method']} in PFLlib")
    if workload["method"] == "per_fedavg" and (workload["options"].get("order") != "first" or workload["epochs"] % 2):
        raise NotImplementedError(
            "PFLlib's Per-FedAvg is first order and trains twice a round: an even number of epochs"
        )
    sys.path.insert(0, str(system))
    _without("opacus", PrivacyEngine=None)  # differential privacy, which no workload has
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002, the generator that PFLlib draws from

    model = _model(importlib.import_module("flcore.trainmodel.models"), workload)
    same_size(workload, sum(p.numel() for p in model.parameters()))
    fastest_for(model, workload)
    folder = tempfile.TemporaryDirectory(prefix="pfllib-")
    _write(examples, Path(folder.name))
    module, name = SERVERS[workload["method"]]
    with contextlib.redirect_stdout(io.StringIO()):
        server = getattr(importlib.import_module(f"flcore.servers.{module}"), name)(_arguments(workload, model), 0)

    def nothing(*_: Any, **__: Any) -> None: ...

    for method in ("evaluate", "evaluate_personalized", "evaluate_one_step", "save_results", "save_global_model"):
        setattr(server, method, nothing)
    for history in ("rs_test_acc", "rs_test_acc_per", "rs_train_loss"):  # read at the end of `train`
        setattr(server, history, [0.0])

    def round_(_: Any = folder) -> None:
        server.Budget = [0.0, 0.0]
        with contextlib.redirect_stdout(io.StringIO()):
            server.train()

    return round_


def _without(name: str, **attributes: Any) -> None:
    """An empty stand-in for a library that is not installed and not used here."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(attributes)


def _model(models: Any, workload: dict[str, Any]) -> torch.nn.Module:
    """PFLlib's own model, split into base and head for FedPer, where a log-softmax of the dense one stays between them.

    Its `main.py` splits that of FedAvg too, to no purpose; here it is the same network as the other contenders'.
    """
    shape, classes = tuple(workload["shape"]), workload["classes"]
    pixels, channels = int(np.prod(shape)), shape[2] if len(shape) == 3 else 1
    if workload["model"] == "logistic":
        model = models.Mclr_Logistic(pixels, classes)
    elif workload["model"] == "mlp":
        (hidden,) = workload["model_options"].get("hidden", (100,))
        model = models.DNN(pixels, hidden, classes)
    elif workload["model"] == "cnn":
        sides = [((length - 4) // 2 - 4) // 2 for length in shape[:2]]
        model = models.FedAvgCNN(channels, classes, 64 * sides[0] * sides[1])
    else:
        raise NotImplementedError(f"no counterpart to {workload['model']} in PFLlib")
    if workload["method"] == "fedper":
        head, model.fc = model.fc, torch.nn.Identity()
        model = models.BaseHeadSplit(model, head)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _write(examples: Examples, folder: Path) -> None:
    """Data files for every client under `dataset/` of `folder`, and the working directory beside it."""
    for part in ("train", "test"):
        (folder / "dataset" / "benchmark" / part).mkdir(parents=True)
    for i, (x, y) in enumerate(examples()):
        images = channels_first(x)
        for part, rows in (("train", slice(None)), ("test", slice(1))):
            file = folder / "dataset" / "benchmark" / part / f"{i}.npz"
            np.savez_compressed(file, data=np.array({"x": images[rows], "y": y[rows]}))
    (folder / "system").mkdir()
    os.chdir(folder / "system")


def _arguments(workload: dict[str, Any], model: torch.nn.Module) -> Namespace:
    """What PFLlib's command line gives, with its defaults, for one round of the workload."""
    options, twice = workload["options"], 2 if workload["method"] == "per_fedavg" else 1
    return Namespace(
        K=options.get("inner_steps", 5),
        algorithm=SERVERS[workload["method"]][1],
        auto_break=False,
        batch_num_per_client=2,
        batch_size=workload["batch_size"] // twice,  # its Per-FedAvg loads two batches at a time
        beta=options.get("beta", 1.0),
        client_drop_rate=0.0,
        dataset="benchmark",
        device="cuda" if torch.cuda.is_available() else "cpu",
        dlg_eval=False,
        dlg_gap=100,
        dp_sigma=0.0,
        eval_gap=1,
        few_shot=0,
        fine_tuning_epoch=0,
        fine_tuning_epoch_new=0,
        global_rounds=0,
        goal="benchmark",
        join_ratio=(workload["cohort"] + 0.5) / workload["clients"],  # it rounds down
        lamda=options.get("lam", 15.0),
        learning_rate_decay=False,
        learning_rate_decay_gamma=0.99,
        local_epochs=workload["epochs"] // twice,  # and trains twice
        local_learning_rate=workload["lr"],
        model=model,
        mu=options.get("lam", 0.5),
        num_classes=workload["classes"],
        num_clients=workload["clients"],
        num_new_clients=0,
        p_learning_rate=options.get("inner_lr", 0.05),
        plocal_epochs=workload["epochs"] // twice,  # and trains twice
        privacy=False,
        random_join_ratio=False,
        save_folder_name="items",
        send_slow_rate=0.0,
        time_select=False,
        time_threthold=1e9,
        top_cnt=100,
        train_slow_rate=0.0,
    )
