"""Follow aliases in the registry: serve another version when an alias is moved to it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import UserError
from pipeline.registry import versions
from pipeline.registry.versions import Version
from pipeline.serving.engine import Engine
from pipeline.serving.served import ServedModel, load_served
from pipeline.tracking.connection import connect
from pipeline.tracking.options import Store


@dataclass(kw_only=True)
class Follower:
    """Polls the registry in a thread.

    The current version is served while another one is loaded, and if loading fails.

    Args:
        store: the registry.
        every_s: the polling interval in seconds.
        say: reports a topic and a text to the user.
        load: loads a version, given how the user names the model, its folder and the version.
    """

    store: Store
    every_s: float
    say: Callable[[str, str], None]
    load: Callable[[str, Path, Version], ServedModel] = load_served
    _poll_now: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None
    _reported: str = ""

    def look_now(self) -> None:
        """Poll at once; safe to call from a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._poll_now.set)

    async def run(self, engine: Engine) -> None:
        """Poll until the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self.every_s):
                    await self._poll_now.wait()
            except TimeoutError:
                pass
            self._poll_now.clear()
            for model in list(engine.models.values()):
                if model.version is not None:
                    await self._follow(engine, model)

    async def _follow(self, engine: Engine, model: ServedModel) -> None:
        try:
            version = await asyncio.to_thread(self._find, model.spec)
            if (version.digest, version.number) == (model.digest, model.version):
                self._reported = ""
                return
            newer = await asyncio.to_thread(self.load, model.spec, version.folder, version)
            if newer.endpoint != model.endpoint:
                task = f"{version.title} has another task"
                self._report(f"{task}, so version {model.version} is still served")
                return
            await engine.warm_up(newer)
        except UserError as error:
            self._report(f"{error.problem}, so version {model.version} of {model.name} is still served")
            return
        engine.replace(newer)
        self.say("Registry", f"{model.spec} is now version {version.number} (before: {model.version})")

    def _find(self, spec: str) -> Version:
        with connect(self.store) as client:
            return versions.find_version(client, spec)

    def _report(self, text: str) -> None:
        """Report a text to the user unless it repeats the previous one."""
        if text != self._reported:
            self.say("Registry", text)
        self._reported = text
