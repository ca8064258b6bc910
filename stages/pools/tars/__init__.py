"""Tars of samples: lists members, groups them into samples, and reads samples by their byte ranges."""
