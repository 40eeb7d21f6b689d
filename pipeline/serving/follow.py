"""Looks whether an alias in the registry was moved, and lets the server follow it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.errors import UserError
from pipeline.registry import versions
from pipeline.registry.versions import Version
from pipeline.serving.engine import Engine
from pipeline.serving.served import ServedModel, load_served
from pipeline.tracking.connection import connect
from pipeline.tracking.options import Store


@dataclass(kw_only=True)
class Follower:
    """Asks the registry now and then, in a thread beside the server.

    What is served goes on while another version is loaded, and where that fails.

    Args:
        store: the registry.
        every_s: how often it is asked.
        say: (topic, text) to the user.
    """

    store: Store
    every_s: float
    say: Callable[[str, str], None]
    _asked: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _said: str = ""

    def look_now(self) -> None:
        """Do not wait for the next time; may be called by a signal."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._asked.set)

    async def run(self, engine: Engine) -> None:
        """Until it is cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self.every_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            for model in list(engine.models.values()):
                if model.version is not None:
                    await self._follow(engine, model)

    async def _follow(self, engine: Engine, model: ServedModel) -> None:
        try:
            version = await asyncio.to_thread(self._find, model.spec)
            if (version.digest, version.number) == (model.digest, model.version):
                self._said = ""
                return
            newer = await asyncio.to_thread(load_served, model.spec, version.folder, version)
            if newer.endpoint != model.endpoint:
                self._tell(f"{version.title} is of another task, so version {model.version} is kept")
                return
            await engine.warm_up(newer)
        except UserError as error:
            self._tell(f"{error.problem}, so version {model.version} of {model.name} is kept")
            return
        engine.replace(newer)
        self.say("Registry", f"{model.spec} is now version {version.number} (before: {model.version})")

    def _find(self, spec: str) -> Version:
        with connect(self.store) as client:
            return versions.find_version(client, spec)

    def _tell(self, text: str) -> None:
        """Once, until it changes."""
        if text != self._said:
            self.say("Registry", text)
        self._said = text
