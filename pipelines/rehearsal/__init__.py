"""Rehearse a profile at small scale: generated data, small random models and a thousandth of the steps."""
