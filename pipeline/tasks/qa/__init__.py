"""Extractive question answering: the answer is a span of the context, or there is none."""

from pipeline.tasks.qa.task import ExtractiveQA

__all__ = ["ExtractiveQA"]
