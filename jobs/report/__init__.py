"""`winnow report`: one HTML page about a finished job, which opens from disk and loads nothing from elsewhere."""

from winnow.jobs.report.making import Made, report

__all__ = ["Made", "report"]
