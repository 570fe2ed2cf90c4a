"""Rounds, runs and ensembles of runs, compiled; devices, processes, memory, checkpoints."""

from pfljax.engine.simulation import Simulation, simulate

__all__ = ["Simulation", "simulate"]
