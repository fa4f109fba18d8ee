"""Programs and their tests, to verdicts and costs."""
