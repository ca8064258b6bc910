"""The path a sample takes, one file per artifact: pool, embeddings, cuts, manifest, shards."""
