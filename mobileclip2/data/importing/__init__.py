"""Import pictures and captions as people have them: read them as rows, and write shards or evaluation sets."""
