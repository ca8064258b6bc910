"""`winnow report`: one HTML page about a finished job, which opens from disk and loads nothing from elsewhere."""

from winnow.jobs.report.making import WrittenPage, make_report

__all__ = ["WrittenPage", "make_report"]
