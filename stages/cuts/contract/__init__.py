"""What winnow asks of a cut: what it needs, how it is explained, checked, shown and priced; and what it is given."""
