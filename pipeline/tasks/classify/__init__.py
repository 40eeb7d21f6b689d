"""Classification: one label, or any number of them, for a text or a pair of texts."""

from pipeline.tasks.classify.task import TextClassification

__all__ = ["TextClassification"]
