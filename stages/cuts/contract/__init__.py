"""The contract between winnow and a cut: what it needs, and how it is explained, checked, shown and priced."""
