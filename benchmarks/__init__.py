"""Side-by-side measurements of pyrunc, of its peers and of the floor; `python -m benchmarks.report` runs them."""
