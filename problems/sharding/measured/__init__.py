"""Costs that were measured: raw campaigns, cost networks trained on them, and what they add to additive models."""
