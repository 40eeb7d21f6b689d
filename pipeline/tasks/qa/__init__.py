"""Extractive question answering: the answer is a part of a text, or there is none."""

from pipeline.tasks.qa.task import ExtractiveQA

__all__ = ["ExtractiveQA"]
