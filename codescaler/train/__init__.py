"""Training of reward models: `fit_head` fits a Bradley-Terry head on the frozen features of any language model."""

from codescaler.train.head import HeadReport, fit_head

__all__ = ["HeadReport", "fit_head"]
