"""Tars of samples: their members, the samples that they make up, and byte ranges of them."""
