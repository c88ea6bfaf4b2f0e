"""A world on one machine: PoPs, clients and origins as network namespaces, joined by an emulated WAN.

`causeway lab` is its command; tests use `Lab` and `read_world`.
"""

from causeway.lab.lab import Lab
from causeway.lab.problem import LabError
from causeway.lab.shape import Shape
from causeway.lab.world import World, read_world

__all__ = ["Lab", "LabError", "Shape", "World", "read_world"]
