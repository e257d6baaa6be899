"""Raw shards: reading WebDataset tars, decoding their images, deciding which samples are kept."""
