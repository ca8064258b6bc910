"""The `winnow` command and everything that people start: jobs, reports, checks, filter networks."""
