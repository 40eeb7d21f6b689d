"""Saves that a strategy writes while training goes on, as callbacks see them; most strategies have none."""

from abc import ABC, abstractmethod

import lightning as L


class SavesInBackground(ABC):
    """A strategy whose checkpoints are written while training goes on."""

    @property
    @abstractmethod
    def has_failed_save(self) -> bool:
        """Whether a save has failed in this process, without waiting for the others."""

    @abstractmethod
    def finish_saves(self) -> None:
        """Wait until all saves are complete; a collective operation.

        Raises:
            CheckpointError: in all processes, if a checkpoint could not be written.
        """


def has_failed_save(trainer: L.Trainer) -> bool:
    """Return whether a save in the background has failed in this process."""
    return isinstance(trainer.strategy, SavesInBackground) and trainer.strategy.has_failed_save


def finish_saves(trainer: L.Trainer) -> None:
    """Wait until all checkpoints are complete.

    Raises:
        CheckpointError: in all processes, if one could not be written.
    """
    if isinstance(trainer.strategy, SavesInBackground):
        trainer.strategy.finish_saves()
