"""The profile: one module for each section."""
