"""The engine: storage, artifacts, fingerprints, executors, exchange, keep_top, errors, progress. Knows no images."""
