"""Watches what a policy does to its reward while it trains, without tests: `RewardMonitor`."""

from codescaler.monitor.monitor import RewardMonitor, Window

__all__ = ["RewardMonitor", "Window"]
