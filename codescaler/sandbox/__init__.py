"""Runs untrusted programs against tests, and returns verdicts. Knows no model.

A verdict cannot be forged from inside. What a test expects is never in the process of the program, nor in a file or a
process in its reach. (With limits alone, files and processes of the user are in its reach.) What the program says is
only ever an answer to a question.
"""

from codescaler.sandbox.isolation import ISOLATIONS, Isolation
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.sandbox import Sandbox

__all__ = ["ISOLATIONS", "Isolation", "Limits", "Sandbox"]
