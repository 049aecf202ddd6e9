"""Defences, each beside the attacks that were made against it.

- `robust_manifold`: projection to the range of a generator, and training on it
"""
