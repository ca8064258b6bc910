"""The path that a sample takes: pool, samples, vectors, cuts, manifest, training shards."""
