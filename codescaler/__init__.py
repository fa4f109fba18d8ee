"""codescaler scores programs with reward models: see `codescaler.engine.Engine`."""

__version__ = "0.1.0"
