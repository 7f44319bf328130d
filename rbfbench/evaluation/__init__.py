"""The straight line of a run: target, engine, verifier, checks."""
