"""Token classification: a tag for each word, such as the names of people and places in a sentence."""

from pipeline.tasks.tag.task import TokenClassification

__all__ = ["TokenClassification"]
