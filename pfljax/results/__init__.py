"""What a run gives back, and what is made of it: statistics, tables, figures, models."""

from pfljax.results.result import Comparison, Result

__all__ = ["Comparison", "Result"]
