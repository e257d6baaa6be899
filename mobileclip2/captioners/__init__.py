"""CoCa models that generate synthetic captions."""
