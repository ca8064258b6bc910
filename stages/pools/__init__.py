"""Pool formats, one file each, and what they share: with images, or with vectors that were computed before."""
