"""Zero-shot classification and retrieval, measured and written down as the DataComp suite does."""
