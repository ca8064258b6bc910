"""`python -m jobs`: the winnow command without an installed script."""

from jobs.cli import main

main()
