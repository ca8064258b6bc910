"""What winnow asks of a cut: what it needs, how it is explained, how its files are checked; and what it is given."""
