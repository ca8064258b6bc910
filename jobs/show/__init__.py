"""Prints results: tables for a terminal, JSON for programs."""
