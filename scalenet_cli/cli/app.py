"""The application: its commands, and the one place where errors become text and exit status."""

import atexit
import logging
import os
import signal
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from scalenet_cli.cli import (
    bench,
    check,
    compare,
    count_params,
    diagnose,
    evaluate,
    expand,
    finetune,
    flops,
    generate,
    inspection,
    quickstart,
    recipes,
    verify,
)
from scalenet_cli.errors import ScalenetError, SystemFailure
from scalenet_cli.files.standard_streams import (
    guard_streams,
    lost_output,
    output_failure,
    stopped_by_output,
)
from scalenet_cli.files.stop_requests import stop_requests

EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141  # 128 + SIGPIPE: what a shell says of a program that its reader has left


class ReportingGroup(TyperGroup):
    """Turns a ScalenetError of any command into its message on stderr and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command inside the error boundary."""
        try:
            return super().invoke(ctx)
        except ScalenetError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:
            typer.echo(f"interrupted: {str(interrupt) or 'nothing was changed'}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except OSError as error:
            if stopped_by_output():
                raise  # main says what that means
            where = None if error.filename is None else str(error.filename)
            typer.echo(str(SystemFailure(error.strerror or str(error), where=where)), err=True)
            raise typer.Exit(SystemFailure.exit_code) from None


app = typer.Typer(
    name="scalenet",
    cls=ReportingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a pretrained checkpoint deeper: tied blocks, one small adapter per block instance.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from scalenet_cli.version import __version__

        typer.echo(f"scalenet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Options of the tool itself."""


app.command("expand")(expand.expand)
app.command("finetune")(finetune.finetune)
app.command("inspect")(inspection.inspect)
app.command("check")(check.check)
app.command("count-params")(count_params.count_params)
app.command("flops")(flops.flops)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("bench")(bench.bench)
app.command("diagnose")(diagnose.diagnose)
app.command("compare")(compare.compare)
app.command("verify")(verify.verify)
app.command("recipes")(recipes.recipes)
app.command("quickstart")(quickstart.quickstart)


def _stop(number: int, _: object) -> NoReturn:
    # As an exception, so that a half-written output is removed on the way out.
    raise SystemExit(128 + number)


class _QuickEnd:
    """Ends the process without taking apart what is in memory, which takes torch a second.

    The first to be registered for the exit of Python is the last to be called: threads, the
    libraries that were imported since, and worker processes have been ended as always.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self.status = 1  # of an uncaught exception
        atexit.register(self)

    def __call__(self) -> None:
        if os.getpid() != self._process:  # a fork that ends as a Python program does
            return
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        except (OSError, ValueError):
            if lost_output() is None:
                return  # Python reports it
        # Libraries may have written at the exit.
        os._exit(self.status or _settled(self.status))


def _settled(status: int) -> int:
    """The exit status, which is not 0 where the result on stdout was lost.

    Of an error that is more than that, and was told, the status stays.
    """
    loss = lost_output()
    if loss is None or status not in (0, 1):
        return status
    if loss == "reader":  # such as `head`, which has enough
        return EXIT_NO_READER
    failure = SystemFailure(f"the result cannot be written: {output_failure()}", where="stdout")
    typer.echo(str(failure), err=True)
    return failure.exit_code


def script() -> None:
    """The console script: ``main``, and a quick end."""
    end = _QuickEnd()
    try:
        main()
    except SystemExit as leaving:
        end.status = _status(leaving)
        raise


def _status(leaving: SystemExit) -> int:
    return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))


def _is_our_business(record: logging.LogRecord) -> bool:
    """Not so what torch says of torchao's enums, wherever transformers imports torchao."""
    return "is an Enum subclass" not in str(record.msg)


def main() -> None:
    """The command line, from ``sys.argv`` to SystemExit."""
    guard_streams()
    logging.getLogger("torch.utils._pytree").addFilter(_is_our_business)
    signal.signal(signal.SIGTERM, _stop)
    # Windows has no SIGHUP; nohup has it ignored, and so it stays.
    hang_up = signal.Signals.__members__.get("SIGHUP")
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:
        signal.signal(hang_up, _stop)
    try:
        with stop_requests():  # also while the command's own modules are imported
            app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as leaving:
        sys.exit(_settled(_status(leaving)))
    except OSError:
        if not stopped_by_output():
            raise
        sys.exit(_settled(1))
    finally:
        # torchrun ends ranks that are ending already: raised at exit it would be a traceback.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
