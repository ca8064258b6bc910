"""Filter networks: training one, choosing its precision, and judging it."""
