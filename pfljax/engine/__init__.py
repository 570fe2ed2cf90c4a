"""Rounds, runs and ensembles of runs, compiled; devices, processes, memory, checkpoints."""

from pfljax.engine.runs import simulate
from pfljax.engine.simulation import Simulation

__all__ = ["Simulation", "simulate"]
