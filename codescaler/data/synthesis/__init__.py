"""New problems from the concepts of known problems, as QueST makes them (arXiv 2510.17715), and tests for them.

What of QueST is public is followed. Its prompts, the weight `alpha` of frequency and `epsilon` are not: ours stand in
`prompts.py` and `graph.py`.
"""

ALPHA, EPSILON = 0.5, 1e-6  # of the graph's weights
MAX_STEPS = 6  # of a walk
