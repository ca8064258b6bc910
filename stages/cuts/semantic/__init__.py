"""Semantic deduplication: of samples that mean the same, the best one stays."""
