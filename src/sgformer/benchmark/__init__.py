"""Measurement for `sgformer benchmark`: timed steps, and the parity check that precedes any figure."""
