"""Architectures that can be eroded, exported and run: a table, made with random weights."""

import argparse
from pathlib import Path

from deepfusion_edge.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table, for people")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="measure what has this in its name, and take the other rows from the JSON file",
    )


def run(options: argparse.Namespace) -> int:
    """Measure, write JSON and table; what fails is a line of the table.

    Raises:
        UsageError: nothing has the wanted name.
        InputError: the rows to keep cannot be read.
    """
    import torch

    from benchmarks.coverage import page
    from benchmarks.coverage.catalogue import architectures
    from benchmarks.coverage.measure import row_of
    from deepfusion_toolkit.files import write_bytes
    from deepfusion_toolkit.report import progress

    known = list(architectures())
    wanted = [a for a in known if not options.only or any(t in a.spec for t in options.only)]
    if not wanted:
        raise UsageError(f"no architecture has {' or '.join(options.only)} in its name", "see docs")
    kept = page.read(options.json) if options.only else {}
    torch.set_num_threads(1)
    with progress("architectures", len(wanted)) as advance:
        for architecture in wanted:
            kept[architecture.spec] = row_of(architecture)
            rows = [kept[a.spec] for a in known if a.spec in kept]
            write_bytes(options.json, page.as_json(rows))  # a run that is interrupted loses nothing
            advance(1)
    text = page.as_markdown(rows, [a.spec for a in known if a.spec not in kept])
    if options.markdown:
        write_bytes(options.markdown, text.encode())
    else:
        print(text)
    return 0
