"""Runs programs that nobody trusts against tests, and says what that showed. Knows no model.

A verdict cannot be had from inside: what a test expects is never in the process of the program, nor in a file or a
process that it could reach (with limits alone, files and processes of the user are in its reach), and nothing that the
program says is taken for more than an answer to a question.
"""

from codescaler.sandbox.isolation import ISOLATIONS, Isolation
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.sandbox import Sandbox

__all__ = ["ISOLATIONS", "Isolation", "Limits", "Sandbox"]
