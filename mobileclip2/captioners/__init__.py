"""Captioners: CoCa models that write the synthetic captions."""
