"""What a run gives back, and what is made of it: statistics, tables, figures, models."""

from pfljax.results.comparison import Comparison
from pfljax.results.result import Result

__all__ = ["Comparison", "Result"]
