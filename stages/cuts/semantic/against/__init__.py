"""Samples that repeat what another finished job kept: by their bytes or captions, or by vectors of one encoder."""
