"""Try models in the browser: the server of `make serve` with an HTML page."""

from pathlib import Path

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.plain import Config
from pipeline.demo.choosing import newest_of_each_task
from pipeline.demo.routes import add_page
from pipeline.runs.find import LATEST
from pipeline.serving.server import Server
from pipeline.stages.serve import TOKEN, answer_requests, specs_of


def demo(config: Config) -> StageResult:
    """Serve the page and its requests until Ctrl-C or SIGTERM."""

    def find() -> list[str]:
        if config.bundle == LATEST:
            return newest_of_each_task(Path(config.runs_dir))
        return list(specs_of(config.bundle))

    return answer_requests(config, find, introduce=_introduce, extend=add_page)


def _introduce(server: Server, where: str, has_token: bool) -> None:
    report.say("Page", f"{where}/ (open it in a browser)", wrap=False)
    if has_token:
        report.say("Token", f"the page asks for the value of {TOKEN}")
