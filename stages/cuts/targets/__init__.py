"""Target sets: images or vectors that a cut compares the pool with, and clusters that stay by their votes."""
