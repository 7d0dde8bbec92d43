"""Side-by-side measurements, run by hand as `python -m benchmarks.NAME`."""
