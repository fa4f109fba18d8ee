"""Programs on inputs, to outputs: what voting, audits and generated suites have in common."""
