"""The path that a sample takes: pool, embeddings, cuts, manifest, training shards."""
