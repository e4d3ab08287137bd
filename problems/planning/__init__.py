"""Survivable backbone capacity planning: instances, an exact decomposition, an independent judge, nonlinear costs."""
