"""Users' ONNX files: networks of timm written by torch's exporters, and made a bundle of."""

import argparse
from itertools import groupby

from benchmarks.coverage.command import add_arguments
from deepfusion_edge.errors import UsageError

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Export, take in and pack each network; what fails is a line of the table.

    Raises:
        UsageError: nothing has the wanted name.
        InputError: the rows to keep cannot be read.
    """
    import torch

    from benchmarks.coverage import round_trip, round_trip_page
    from deepfusion_toolkit.files import write_bytes
    from deepfusion_toolkit.report import progress

    known = list(round_trip.files())
    wanted = [
        file for file in known if not options.only or any(t in file.name for t in options.only)
    ]
    if not wanted:
        raise UsageError(f"no file has {' or '.join(options.only)} in its name", "see docs")
    kept = round_trip_page.read(options.json) if options.only else {}
    torch.set_num_threads(1)
    with progress("ONNX files", len(wanted)) as advance:
        for architecture, group in groupby(wanted, key=lambda file: file.architecture):
            for row in round_trip.rows_of(architecture, [file.exporter for file in group]):
                kept[row.name] = row
                rows = [kept[each.name] for each in known if each.name in kept]
                write_bytes(options.json, round_trip_page.as_json(rows))
                advance(1)
    unmeasured = [each.name for each in known if each.name not in kept]
    text = round_trip_page.as_markdown(rows, unmeasured)
    if options.markdown:
        write_bytes(options.markdown, text.encode())
    else:
        print(text)
    return 0
