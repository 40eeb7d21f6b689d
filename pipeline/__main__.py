"""`python -m pipeline STAGE [key=value ...]`: what every Make target calls.

Standard output carries results only (with `--json`, one JSON object as its last line); progress and messages
go to standard error. Exit codes: 0 success; 2 an error of the user, or too little memory; 129, 130, 138, 143
stopped by a signal; 141 the reader of standard output was gone before the results were written.
"""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from pipeline import processes
from pipeline.errors import ConfigError, PipelineError, RunInterrupted, Stopped, UserError
from pipeline.signals import Requests, listening
from pipeline.stdio import GONE, safe_streams, show_logs_as_notes
from pipeline.tuning import tune_process

#: Errors caused by a disk or its permissions; any other OSError is a bug, and is shown with its traceback.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage or command, and return its exit code."""
    with safe_streams() as results:
        show_logs_as_notes()
        tune_process()
        code = _run(arguments)
        results.flush()
        if code or results.problem is None:
            return code
        if results.problem.errno in GONE:
            return 128 + signal.SIGPIPE
        print(f"error: {_disk_problem(results.problem, 'standard output')}", file=sys.stderr)
        return 2


def _run(arguments: Sequence[str] | None) -> int:
    try:
        with _signals_raise():
            processes.adopt_slurm(os.environ)
            processes.quieten_torch(os.environ)
            if arguments is None:
                sys.argv[1:] = arguments = [_as_text(word) for word in _typed(sys.argv[1:])]
            parsed = _parser().parse_args(arguments)
            return _dispatch(parsed.stage, parsed.overrides, as_json=parsed.json)
    except UnicodeEncodeError as error:
        if os.environ.get("DEBUG") or error.encoding != sys.getfilesystemencoding():
            raise
        print(f"error: {_unknown_letters(error)}", file=sys.stderr)
        return 2
    except (UserError, Stopped, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("DEBUG"):
            raise
        if isinstance(error, (OSError, RuntimeError, MemoryError)):
            from pipeline.machine.out_of_memory import is_out_of_memory, out_of_memory

            if is_out_of_memory(error):
                error = out_of_memory(error)
            elif not isinstance(error, OSError):
                raise
        if isinstance(error, OSError):
            if error.errno not in DISK_ERRORS:
                raise
            error = _disk_problem(error)
        if _prints(error):
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, (Stopped, RunInterrupted)) else 2


def _prints(error: UserError | Stopped) -> bool:
    """Return whether this process is the one that prints why the run ends."""
    if isinstance(error, (Stopped, RunInterrupted)):
        return processes.is_first()
    if processes.count_launched() == 1:
        processes.let_first_report()
        return True
    from pipeline.rendezvous import RendezvousError, rendezvous

    try:
        return isinstance(error, RendezvousError) or rendezvous().fail(error)
    except RendezvousError:  # the others see that too
        return True


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Make each signal raise `Stopped`, from the first import to the last line of the summary."""
    pid, requests = os.getpid(), Requests()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == pid and requests.is_new(number):  # forked workers are ended by this process
            raise Stopped(number)

    with listening(stop):
        yield


def _as_text(word: str) -> str:
    """Decode an argument that is not valid in the encoding of the locale but may still be UTF-8.

    Raises:
        ConfigError: if it is not valid UTF-8 either.
    """
    if word.isprintable() or not any("\udc80" <= letter <= "\udcff" for letter in word):
        return word
    try:
        return os.fsencode(word).decode("utf-8")
    except UnicodeDecodeError:
        shown = word.encode(errors="backslashreplace").decode()
        raise ConfigError(
            f"the argument {shown} is not valid text in {sys.getfilesystemencoding()} or UTF-8",
            "text in the encoding of the locale",
            "set LC_ALL to the locale of the terminal, or rename the file or folder",
        ) from None


def _unknown_letters(error: UnicodeEncodeError) -> ConfigError:
    """Return the error for a name or a path that the locale's encoding cannot represent."""
    return ConfigError(
        f"{error.object!r} has characters that the locale's encoding, {error.encoding}, cannot represent",
        "names of files and folders in that encoding",
        "set LC_ALL=C.UTF-8, or use other names",
    )


def _disk_problem(error: OSError, file: str | None = None) -> PipelineError:
    return PipelineError(
        f"{file or error.filename or 'a file'} cannot be opened or written: {error.strerror}",
        "",
        "free some space, or choose other folders with runs_dir=PATH and cache_dir=PATH",
    )


def _typed(arguments: Sequence[str]) -> list[str]:
    """Return the whole command line, including make's variables, to record it and for further processes."""
    from pipeline.config.variables import with_variables

    return with_variables(arguments, os.environ)


def _dispatch(stage: str, overrides: Sequence[str], *, as_json: bool) -> int:
    from pipeline.config.check import check
    from pipeline.config.compose import compose_unchecked
    from pipeline.light_imports import import_torchmetrics_alone

    if stage == "show-config":
        return _show_config(overrides)
    import_torchmetrics_alone()
    from pipeline.commands import ORCHESTRATORS, find_orchestrator, find_stage

    if stage in ORCHESTRATORS:
        processes.refuse_several(stage)
        result = find_orchestrator(stage)(overrides)
    else:
        config = compose_unchecked(stage, overrides)
        if isinstance(config.get("resume"), str):
            from pipeline.runs.resume import with_recorded

            config = with_recorded(config, overrides)
        check(config)
        from pipeline.config.model import check_values

        check_values(config)
        if "optimizer" not in config:
            processes.refuse_several(stage)
        result = find_stage(stage)(config)
    if as_json:
        print(result.to_json())
    elif result.output and not (result.is_said and sys.stdout.isatty()):
        print("\n\n".join(result.output))
    return 0


def _show_config(overrides: Sequence[str]) -> int:
    """Print the configuration of a stage (`stage=NAME`, by default pretrain), including defaults."""
    from pipeline.config.compose import compose
    from pipeline.config.recorded import with_defaults
    from pipeline.files import to_yaml

    stages = [override.removeprefix("stage=") for override in overrides if override.startswith("stage=")]
    others = [override for override in overrides if not override.startswith("stage=")]
    config = compose(stages[-1] if stages else "pretrain", others)
    print(to_yaml(with_defaults(config)), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    from pipeline.config.groups import groups, stage_titles

    titles = {
        **stage_titles(),
        "show-config": "Print the configuration of a stage (stage=NAME; default: pretrain)",
    }
    stages = "\n".join(f"  {word:<12} {title}" for word, title in titles.items())
    options = "\n".join(
        f"  {group:<12} {', '.join(names)}" for group, names in groups().items() if group != "stage"
    )
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Prelude: from raw text to a trained, tracked, comparable transformer.",
        epilog=f"stages:\n{stages}\n\n"
        f"groups (choose with group=option; change one key with group.key=value):\n{options}\n\n"
        "example: python -m pipeline pretrain task=masked_lm size=small trainer.max_steps=500",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", help="what to do (see below)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object as the last line of output"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
