"""Convolutions and pooling that are fast under `vmap`, and what puts them into a Flax model."""
