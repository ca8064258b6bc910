"""Runs a whole job through many faults and holds its bytes against an undisturbed run; no part of `make test`."""
