# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first round of personalized federated learning
#
# Twenty clients hold handwritten digits. Each client knows only some of the ten classes, so a model of its own is worth
# having; each has few examples, so the others are worth listening to. We train five methods on the same clients, and
# look at every client, not only at the average.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("pfljax") is None:  # as on Colab, whose jax is kept
    source = "pfljax[demo] @ git+https://github.com/pfljax/pfljax"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

# %%
import os
import tempfile
from pathlib import Path

import jax
import optax
from IPython.display import Image

import pfljax as pfl

pfl.configure()  # every core of a CPU trains, and compiled programs are kept
print(pfl.__version__, jax.devices())
rounds = 10 if os.environ.get("PFLJAX_FAST") else 40

# %% [markdown]
# ## Data
#
# `dirichlet(20, 0.1)` deals each class to the clients by a Dirichlet(0.1) draw: very uneven. All examples stay packed
# in one array on the device; a client is a range of its rows.

# %%
data = pfl.federate(pfl.load("digits"), pfl.dirichlet(20, 0.1), seed=0)
data.describe()

# %%
data.label_counts()[:5]

# %% [markdown]
# ## A model, a loss, a local solver
#
# A solver is an optimizer and a plan of minibatches. Everything below is compiled together: local steps, the average,
# and the loop over rounds.

# %%
model = pfl.models.mlp((8, 8, 1), 10)
task = pfl.classification(model)
local = pfl.descent(optax.sgd(0.05), pfl.epochs(1, batch_size=10))
head = pfl.masks.head(model)

# %% [markdown]
# ## One round, by hand
#
# `init`, `run`, `evaluate` are the whole engine. FedPer keeps the last layer on each client: its rows of state have a
# leading axis of clients.

# %%
simulation = pfl.Simulation(task, pfl.algorithms.fedper(task, local, head), data)
key = jax.random.key(0)
state = simulation.init(key)
state, log = simulation.run(state, key, rounds=1)
jax.tree.map(lambda leaf: leaf.shape, state.clients)

# %%
scores = simulation.evaluate(state, key)
scores["personal", "test", "accuracy"].round(2)

# %% [markdown]
# ## Five methods on the same clients
#
# All see the same cohorts, the same minibatches and the same initial model.

# %%
comparison = pfl.compare(
    task,
    {
        "local_only": pfl.algorithms.local_only(task, local),
        "fedavg": pfl.algorithms.fedavg(task, local),
        "fedavg_finetuned": pfl.algorithms.fedavg_finetuned(task, local, local),
        "fedper": pfl.algorithms.fedper(task, local, head),
        "ditto": pfl.algorithms.ditto(task, local, local, lam=0.5),
    },
    data,
    rounds=rounds,
    eval_every=5,
)
comparison.table()

# %% [markdown]
# The last columns say what an average hides: how the worst-off clients fare, and how many clients are better off than
# they would be alone.

# %%
Image(pfl.plots.save(comparison, Path(tempfile.mkdtemp()) / "comparison.png"))

# %% [markdown]
# ## A method's strength is a number like any other
#
# A function of hyperparameters instead of an algorithm: the values are traced, so another `lam` runs the same program.

# %%
simulation = pfl.Simulation(task, lambda lam: pfl.algorithms.ditto(task, local, local, lam=lam), data)
for lam in (0.0, 0.5, 5.0):
    state = simulation.init(key, lam=lam)
    state, _ = simulation.run(state, key, rounds, lam=lam)
    accuracy = simulation.evaluate(state, key, lam=lam)["personal", "test", "accuracy"]
    print(f"lam={lam}: mean {pfl.statistics.mean(accuracy):.3f}, worst {accuracy[accuracy == accuracy].min():.3f}")
print(f"{simulation.compile_seconds:.1f} s of compilation for all three")
