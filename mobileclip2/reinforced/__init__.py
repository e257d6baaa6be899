"""The reinforced dataset: image-text shards with what teachers and captioners had to say about each sample."""
