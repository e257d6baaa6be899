"""Locked-image teachers."""
