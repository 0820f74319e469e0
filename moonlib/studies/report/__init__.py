"""`moonlib report`: what several runs found, on one page that needs nothing else."""

from moonlib.studies.report.page import report

__all__ = ["report"]
