"""The processes that this program itself starts, for a run on several devices of one machine."""

from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from pipeline import processes


class OwnProcesses(LightningEnvironment):
    """The first process starts the others, whatever a launcher or a cloud has left in the environment.

    Lightning would wait forever for processes of another launcher if LOCAL_RANK is set, and for those of
    other machines if NODE_RANK or GROUP_RANK is not 0.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """Whether this process was started by the first one."""
        return not processes.is_first()

    @property
    def main_address(self) -> str:
        """The address of the first process."""
        return "127.0.0.1"

    def node_rank(self) -> int:
        """Return the number of the only machine."""
        return 0
