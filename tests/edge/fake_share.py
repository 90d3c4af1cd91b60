"""The program that reads a folder, on a share that hangs where a test says so.

``python -I -S fake_share.py FILES GATES``: FILES is the real program. While ``GATES/<path>`` is a
pipe, reading that path waits for somebody to open the pipe, as a read of a hung share waits for the
server; ``GATES/listing`` stands for the listing.
"""

import importlib.util
import os
import sys


def main(program, gates):
    spec = importlib.util.spec_from_file_location("files", program)
    files = importlib.util.module_from_spec(spec)
    sys.modules["files"] = files
    spec.loader.exec_module(files)

    def hang(name):
        gate = os.path.join(gates, name)  # noqa: PTH118 - as the real one
        if os.path.exists(gate):  # noqa: PTH110 - as above
            with open(gate, "rb"):  # noqa: PTH123 - as above
                return

    def gated(function, name_of):
        def wait_and_do(root, *path, **options):
            hang(name_of(*path))
            return function(root, *path, **options)

        return wait_and_do

    files.listing = gated(files.listing, lambda: "listing")
    files.content = gated(files.content, lambda path: path)
    files.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
