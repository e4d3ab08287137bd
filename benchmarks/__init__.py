"""Benchmarks: methods over suites of instances, with provenance, and the reports of them."""
