"""The command line: one torch-free module a command, found by name, and the exit codes."""

from __future__ import annotations

import select
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from rbfbench.cli.configuration import read_configuration
from rbfbench.errors import RbfbenchError, raised, unknown_name

COMMANDS = {
    "attack": "rbfbench.cli.attack:attack",
    "baseline": "rbfbench.cli.check:baseline",
    "certify": "rbfbench.cli.certify:certify",
    "check": "rbfbench.cli.check:check",
    "compare": "rbfbench.cli.compare:compare",
    "data": "rbfbench.cli.data:data",
    "figure": "rbfbench.cli.figure:figure",
    "ls": "rbfbench.cli.ls:ls",
    "report": "rbfbench.cli.report:report",
    "sweep": "rbfbench.cli.sweep:sweep",
    "train": "rbfbench.cli.train:train",
}

INTERRUPTED = 130


class _Commands(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rbfbench")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="File of options.  [default: rbfbench.toml of the working directory, if there is one]",
)
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """How robust is this image classifier, really?

    Exit codes: 0 done and passed; 1 the gate says no; 2 wrong command line; 3 could not answer; 130 interrupted.
    """
    context.obj = read_configuration(config, cli)
    context.default_map = context.obj.commands


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _reader_gone() -> bool:
    """Whether our output is a pipe that nobody reads any more."""
    if sys.stdout is None:  # closed from the start
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # errors alone
    return bool(output.poll(0))


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _interrupt)  # what a scheduler sends: end in order, as after Ctrl-C
    try:
        code = cli.main(standalone_mode=False, auto_envvar_prefix="RBFBENCH")
    except RbfbenchError as error:
        click.echo(f"error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except SystemExit as stop:  # our own codes are returned, never raised
        if isinstance(stop.__context__, BrokenPipeError) or _reader_gone():
            # click and rich end so when the reader of our output went away, as `head` does. That is no verdict.
            code = 0
        else:  # the user's code: it must not look like "done and passed"
            why = f"a model, data set or plugin raised {raised(stop)}"
            click.echo(f"error: foreign code tried to end rbfbench: {why}; let it raise an error instead.", err=True)
            code = RbfbenchError.exit_code
    except OSError as error:
        click.echo(f"error: cannot use {error.filename or 'a file'}: {error.strerror or error}", err=True)
        code = RbfbenchError.exit_code
    except Exception:  # a defect of ours: it must not look like "the gate says no"
        import traceback

        traceback.print_exc()
        code = 3
    sys.exit(code if isinstance(code, int) else 0)
