"""`Engine` and the queue behind it: what a process loads to score. Loads neither training nor quantization."""

from codescaler.engine.engine import Engine

__all__ = ["Engine"]
