"""The quickstart: renders a small pool, trains a filter network on it, and filters it."""
