"""``deepfusion-export``: key pairs, signed bundles and lint; heavy imports are lazy."""

import argparse
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from deepfusion_edge import console
from deepfusion_edge.errors import UsageError
from deepfusion_export import __version__

if TYPE_CHECKING:
    from deepfusion_edge.bundle.manifest import Preprocess
    from deepfusion_export.bundle import Lowered

MAX_SEQUENCE = 2**53 - 1
MAX_DAYS = 36_500
MAX_SIDE = 4096
RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "tensorrt-10.3": "TensorRT 10.3",
    "tensorrt-11": "TensorRT 11",
    "agent": "agent",
}
"""What ``lint --runtime`` calls them, and what ``lint`` itself does."""


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


def _between(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number in {low}..{high}")
        return int(text)

    return convert


def _size(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT as (height, width)."""
    width, _, height = text.partition("x")
    found = [int(side) for side in (height, width) if side.isascii() and side.isdigit()]
    if len(found) != 2 or not all(0 < side <= MAX_SIDE for side in found):  # noqa: PLR2004 - two sides
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a size such as 1280x960, of at most {MAX_SIDE} pixels a side"
        )
    return found[0], found[1]


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line, without importing anything heavy."""
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="deepfusion-export",
        description="Make signing keys, pack hardened models into a signed bundle, and say before"
        " which runtimes will take a model.",
        epilog=console.EXIT_CODES,
        formatter_class=style,
    )
    parser.add_argument("--version", action="version", version=f"deepfusion-export {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> _Parser:
        made = commands.add_parser(
            name, help=text, description=text, epilog=console.EXIT_CODES, formatter_class=style
        )
        made.set_defaults(command=command)
        made.add_argument("--json", action="store_true", help="print the result as one JSON object")
        return made

    keygen = add("keygen", _keygen, "Make a key pair: PREFIX.pem (secret) and PREFIX.pub.")
    keygen.add_argument("--out", type=Path, required=True, metavar="PREFIX")
    bundle = add("bundle", _bundle, "Export to ONNX, check parity, sign and pack.")
    bundle.add_argument(
        "--model",
        required=True,
        action="append",
        metavar="SPEC",
        help="a .pt2 or .onnx file, timm:NAME, module.path:factory or efficientnet-lite0, -lite1,"
        " -lite2; one option for each model of the plan, in its order",
    )
    bundle.add_argument("--plan", type=Path, required=True, metavar="PLAN.JSON")
    bundle.add_argument(
        "--key",
        type=Path,
        required=True,
        action="append",
        metavar="KEY.PEM",
        help="private key that signs, one option a key",
    )
    bundle.add_argument("--out", type=Path, required=True, metavar="LINE.DFB")
    bundle.add_argument(
        "--id", default="line", help="product line: small letters, digits, '-' (default: line)"
    )
    bundle.add_argument(
        "--sequence",
        type=_between(1, MAX_SEQUENCE),
        default=1,
        metavar="N",
        help="must grow with every bundle that the same devices install (default: 1)",
    )
    bundle.add_argument(
        "--valid-days",
        type=_between(1, MAX_DAYS),
        default=365,
        metavar="DAYS",
        help="devices refuse the bundle afterwards (default: 365)",
    )
    bundle.add_argument("--force", action="store_true", help="replace LINE.DFB if it exists")
    bundle.add_argument(
        "--precision",
        choices=["fp32", "fp16", "int8"],
        default="fp32",
        help="of the network; scores are fp32 always (default: fp32)",
    )
    bundle.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="labelled images on which the loss of fp16 or int8 is measured",
    )
    bundle.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="images in class folders, or with a labels.csv, that set the ranges of int8;"
        " others than those of --data",
    )
    bundle.add_argument(
        "--max-loss",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="most accuracy that fp16 or int8 may lose, and most clean images that may become"
        " alarms, 0 to below 1 (default: 0.01)",
    )
    bundle.add_argument(
        "--frame",
        type=_size,
        metavar="WxH",
        help="let the graph take the camera's frames of this size as they are, 8 bits a channel,"
        " and resize and scale them itself (default: the device does)",
    )
    bundle.add_argument(
        "--color",
        choices=["RGB", "BGR"],
        default="RGB",
        help="order of the frames' channels, with --frame (default: RGB)",
    )
    bundle.add_argument(
        "--images",
        type=_between(1, 64),
        default=1,
        metavar="N",
        help="most images of one run, for several cameras (default: 1, the fastest for one)",
    )
    lint = add("lint", _lint, "Say what ONNX Runtime, TensorRT and the agent refuse, and why.")
    lint.add_argument(
        "model",
        nargs="+",
        metavar="MODEL",
        help="SPECs as for bundle: they are exported in memory first; an .onnx file alone and"
        " without a plan is judged as it is",
    )
    lint.add_argument(
        "--plan",
        type=Path,
        metavar="PLAN.JSON",
        help="the models' plan; without it they are eroded in every way they allow",
    )
    lint.add_argument(
        "--runtime",
        action="append",
        choices=tuple(RUNTIMES),
        metavar="NAME",
        help=f"one of {', '.join(RUNTIMES)}; one option each (default: all)",
    )
    engine = add(
        "engine",
        _engine,
        "Build a bundle's TensorRT engine on a machine with the device's GPU and TensorRT, or check"
        " anywhere that TensorRT takes the bundle.",
    )
    engine.add_argument("bundle", type=Path, metavar="LINE.DFB")
    engine.add_argument(
        "--trust",
        type=Path,
        required=True,
        action="append",
        metavar="KEY.PUB",
        help="public key that signed, one option a key",
    )
    engine.add_argument(
        "--threshold", type=int, metavar="N", help="how many keys must have signed (default 1)"
    )
    engine.add_argument(
        "--members",
        type=_between(1, 64),
        metavar="K",
        help="as model.members of the agent's configuration (default: the bundle's)",
    )
    engine.add_argument(
        "--no-policy", action="store_true", help="as model.policy false of the agent"
    )
    where = engine.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="engine cache to write into; the agent's own is the folder 'engines' of its state",
    )
    where.add_argument(
        "--check",
        action="store_true",
        help="parse and build, and keep nothing; needs no GPU with 'pip install tensorrt-rtx'",
    )
    return parser


def _keygen(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.envelope import key_id
    from deepfusion_edge.bundle.trust import read_keys
    from deepfusion_export.sign import keygen

    private, public = keygen(options.out)
    (name,) = (key_id(key) for key in read_keys([public]).values())
    _say(options, {"private": str(private), "public": str(public), "key_id": name}, "made")
    return 0


def _bundle(options: argparse.Namespace) -> int:
    from deepfusion_edge.bundle.signing import read_private_keys, readable_by_others

    out: Path = options.out
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder", "name the file to write, such as line.dfb")
    if out.exists() and not options.force:
        raise UsageError(f"--out {out} exists", "choose another name, or add --force")
    _require_images(options)
    keys = read_private_keys(options.key)
    for path in readable_by_others(options.key):
        _progress(f"warning: others may read {path}; run 'chmod 600' on it")
    _progress(f"loading {', '.join(options.model)}")
    from deepfusion_export.bundle import build
    from deepfusion_export.frames import Form
    from deepfusion_toolkit import models, plan

    loaded = [models.load(spec) for spec in options.model]
    wanted = plan.read(options.plan, *loaded)
    now = datetime.now(UTC)
    manifest = build(
        loaded,
        wanted,
        keys=keys,
        id=options.id,
        sequence=options.sequence,
        created=_utc(now),
        expires=_utc(now + timedelta(days=options.valid_days)),
        out=out,
        lowered=_lowered(options, wanted.classes),
        form=Form(options.frame, options.color, options.images),
        step=_progress,
    )
    result = {
        "bundle": str(out),
        "bytes": out.stat().st_size,
        "id": manifest.id,
        "sequence": manifest.sequence,
        "expires": manifest.expires,
        "bases": manifest.erosion.bases,
        "members": manifest.erosion.members,
        "precision": manifest.precision,
        "takes": _takes(manifest.preprocess),
        "parity": _figures(manifest.provenance, "parity_"),
    }
    if manifest.precision != "fp32":
        result["loss"] = cost = _figures(manifest.provenance, "precision_")
        names = ("accuracy_fp32", "accuracy", "alarms_fp32", "alarms", "fused")
        said = ", ".join(f"{name} {float(cost[name]):.4g}" for name in names)
        _progress(f"{manifest.precision} on {cost['images']} images: {said}")
    _say(options, result, "wrote")
    return 0


def _takes(wanted: "Preprocess") -> str:
    """Say what the graph takes, for people."""
    kind = f"uint8 {wanted.color} frames" if wanted.framed else "prepared images"
    many = f", up to {wanted.images} a run" if wanted.images else ""
    return f"{kind} of {wanted.width}x{wanted.height}{many}"


def _lint(options: argparse.Namespace) -> int:
    from deepfusion_edge.errors import ModelError
    from deepfusion_export.lint import folded, lint, read_onnx

    specs: list[str] = options.model
    if len(specs) == 1 and options.plan is None and specs[0].endswith(".onnx"):
        graph = read_onnx(Path(specs[0]))
    else:
        graph = _exported(specs, options.plan)
    wanted = [RUNTIMES[name] for name in options.runtime or RUNTIMES]
    found = lint(graph, wanted)
    refusing = [name for name in wanted if any(f.refused and f.runtime == name for f in found)]
    if options.json:
        result = {
            "bytes": len(graph),
            "runtimes": {name: name not in refusing for name in wanted},
            "findings": [finding._asdict() for finding in found],
        }
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        silent = [name for name in wanted if name not in refusing]
        lines = [finding.line for finding in folded(found)]
        lines += [f"{name}: nothing is refused" for name in silent]
        sys.stdout.writelines(console.one_line(line) + "\n" for line in lines)
    return ModelError.exit_code if refusing else 0


def _exported(specs: list[str], plan: Path | None) -> bytes:
    _progress(f"loading {', '.join(specs)}")
    from deepfusion_export.lint import example
    from deepfusion_toolkit import models
    from deepfusion_toolkit import plan as plans

    loaded = [models.load(spec) for spec in specs]
    decided = None if plan is None else plans.read(plan, *loaded)
    _progress("exporting in memory")
    return example(loaded, decided)


def _figures(provenance: dict[str, str | int | float], prefix: str) -> dict[str, str | int | float]:
    return {k.removeprefix(prefix): v for k, v in provenance.items() if k.startswith(prefix)}


def _lowered(options: argparse.Namespace, classes: tuple[str, ...]) -> "Lowered | None":
    """Read the images that a lower precision needs."""
    if options.precision == "fp32":
        return None
    from deepfusion_export.bundle import Lowered
    from deepfusion_toolkit.data import folder

    data = folder.load(options.data, classes=classes)
    calibration = None
    if options.calibration is not None:
        calibration = folder.load(options.calibration, classes=classes)
    return Lowered(options.precision, data, calibration, options.max_loss)


def _require_images(options: argparse.Namespace) -> None:
    """Refuse options that do not fit each other, before anything is loaded."""
    if options.color != "RGB" and options.frame is None:
        raise UsageError(f"--color {options.color} needs --frame", "name the frames' size")
    needs = {"data": options.precision != "fp32", "calibration": options.precision == "int8"}
    for name, needed in needs.items():
        if needed and getattr(options, name) is None:
            raise UsageError(
                f"--precision {options.precision} needs --{name}", "name a folder of images"
            )
        if not needed and getattr(options, name) is not None:
            raise UsageError(
                f"--{name} says nothing for --precision {options.precision}", "leave it out"
            )
    if options.calibration is not None and options.calibration.resolve() == options.data.resolve():
        raise UsageError(
            "--calibration and --data are the same folder",
            "measure the loss on images that set no range",
        )


def _engine(options: argparse.Namespace) -> int:
    from deepfusion_export import engine

    wanted = engine.Wanted(
        options.bundle,
        options.trust,
        now=_utc(datetime.now(UTC)),
        threshold=options.threshold,
        members=options.members,
        policy=not options.no_policy,
        step=_progress,
    )
    if options.check:
        _say(options, engine.check(wanted), "TensorRT takes it")
    else:
        _say(options, engine.make(wanted, options.out), "ready")
    return 0


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _progress(text: str) -> None:
    sys.stderr.write(console.one_line(text) + "\n")
    sys.stderr.flush()


def _say(options: argparse.Namespace, result: dict[str, object], verb: str) -> None:
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    plain = {key: value for key, value in result.items() if not isinstance(value, dict)}
    text = ", ".join(f"{key} {value}" for key, value in plain.items())
    sys.stdout.write(console.one_line(f"{verb}: {text}") + "\n")


if __name__ == "__main__":
    sys.exit(main())
