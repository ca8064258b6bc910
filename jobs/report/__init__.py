"""The report of a finished job: one HTML page that opens from disk; refuses to load anything from elsewhere."""

from winnow.jobs.report.making import Made, report

__all__ = ["Made", "report"]
