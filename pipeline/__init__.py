"""The engine: storage, artifacts, fingerprints, executors, errors, progress. Knows shards and columns, no image."""
