"""Oracles are met without implicit promotion."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _strictly(strict: None) -> None:
    """Every test of a method runs under strict numerics."""
