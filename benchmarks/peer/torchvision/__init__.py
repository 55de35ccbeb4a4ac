"""A stand-in for the part of torchvision that diffusers' training scripts import.

There is no torchvision for CPU wheels of torch; the benchmark puts this folder's parent on the path
of the peer's process alone.
"""

from torchvision import transforms

__version__ = "0.0+stand.in"
__all__ = ["transforms"]
