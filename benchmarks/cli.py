"""``python -m benchmarks``: what the product costs, and the demos that show it."""

import argparse
import importlib
from collections.abc import Callable
from typing import NoReturn

from deepfusion_edge import console
from deepfusion_edge.errors import UsageError

COMMANDS = {
    "demo": "benchmarks.demo.rendered",
    "demo-imagenet": "benchmarks.demo.photographs",
    "journey": "benchmarks.demo.own",
    "agent": "benchmarks.agent.command",
    "attack": "benchmarks.attack.command",
    "coverage": "benchmarks.coverage.command",
    "defence": "benchmarks.defence.command",
    "latency": "benchmarks.latency.command",
    "onnx-files": "benchmarks.coverage.onnx_files",
    "prove": "benchmarks.prove.command",
}
"""Sub-command -> module with ``add_arguments(parser)`` and ``run(options) -> int``.

The first line of the module's docstring is the command's help. Modules are imported to build the
parser, so heavy imports belong into ``run``.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return console.run(lambda: _main(argv))


def _main(argv: list[str] | None) -> int:
    options = build_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line, without importing anything heavy."""
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=console.EXIT_CODES,
        formatter_class=style,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, path in COMMANDS.items():
        module = importlib.import_module(path)
        text = (module.__doc__ or name).strip().splitlines()[0]
        made = commands.add_parser(
            name, help=text, description=text, epilog=console.EXIT_CODES, formatter_class=style
        )
        module.add_arguments(made)
        made.set_defaults(command=module.run)
    return parser
