"""The engine: storage, artifacts, fingerprints, executors, errors, progress. Knows shards, not images."""
