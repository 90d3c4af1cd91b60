"""The journey of a data set: train, attack, harden, sign, install, judge, report; and its settings.

Each step is a command that a user could type; it is shown before it runs.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.demo import device, images, page, steps, summary, witness
from benchmarks.demo.steps import Step, command
from deepfusion_edge.errors import UsageError
from deepfusion_toolkit import data
from deepfusion_toolkit.files import write_bytes
from deepfusion_toolkit.names import FAMILIES
from deepfusion_toolkit.report import table


@dataclass(frozen=True)
class Rendered:
    """Images from `deepfusion data render`: so many of each class, square, of so many pixels."""

    train: int
    test: int
    size: int = 64


@dataclass(frozen=True)
class Photographs:
    """The twenty ImageNet pictures that the package foolbox ships; there is nothing to train on."""


@dataclass(frozen=True)
class Own:
    """A user's folders; ``train`` may be missing if nothing is trained, ``limit`` caps the test."""

    test: Path
    train: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Settings:
    """What a journey does.

    Attributes:
        title: of the report.
        images: where they come from.
        surrogates, target: a SPEC, or one of :data:`names.FAMILIES` to train it first.
        held_out: surrogates of a second attack, which hardening does not see; may be empty.
        epochs: of training.
        harden_epochs: 0 chooses sites and strength and calibrates, without training; None takes
            the command's own.
        crafted: transfer examples to train on, None takes the command's own.
        false_positive_rate: that the flags are calibrated to, None takes the command's own; 0 flags
            nothing.
        eps: budget of both attacks and of hardening, in units of 1/255.
        attack_steps: iterations of both attacks.
        batch: images attacked at once, None takes the command's own; less needs less memory.
        members: K, None takes the command's own.
        shared: least share of the work that members have in common, None takes the command's own.
        seed: of images, training, attack and hardening.
        remarks: paragraphs of the report that are true of this journey alone.
    """

    title: str
    images: Rendered | Photographs | Own
    surrogates: tuple[str, ...]
    target: str
    held_out: tuple[str, ...] = ()
    epochs: int = 8
    harden_epochs: int | None = None
    crafted: int | None = None
    false_positive_rate: float | None = None
    eps: float = 16
    attack_steps: int = 10
    batch: int | None = None
    members: int | None = None
    shared: float | None = None
    seed: int = 0
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = (*self.surrogates, *self.held_out, self.target)
        can_train = isinstance(self.images, Rendered) or (
            isinstance(self.images, Own) and self.images.train is not None
        )
        if not self.surrogates:
            raise UsageError("no surrogate is named", "give --surrogate SPEC at least once")
        if not can_train and any(name in FAMILIES for name in names):
            family = next(name for name in names if name in FAMILIES)
            raise UsageError(
                f"'{family}' must be trained and there are no training images",
                "give --train-data DIR or another SPEC",
            )


class Journey:
    """Paths and steps of one journey in one folder."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self.settings, self.out = settings, out
        own = settings.images.train if isinstance(settings.images, Own) else None
        rendered = isinstance(settings.images, Rendered)
        self.test = out / "data" / "test"
        self.train = out / "data" / "train" if rendered else own
        self.sets = {summary.ATTACKED: out / "attacked"}
        if settings.held_out:
            self.sets[summary.HELD_OUT] = out / "attacked-held-out"
        self.plan, self.hardened = out / "plan.json", out / "hardened.pt2"
        self.bundle, self.state = out / "line.dfb", out / "device"
        self.messages = out / "messages.jsonl"
        self._trainings: list[Step] = []
        self.surrogates = [
            self._model(s, f"surrogate-{n}") for n, s in enumerate(settings.surrogates, 1)
        ]
        self.held_out = [
            self._model(s, f"held-out-{n}") for n, s in enumerate(settings.held_out, 1)
        ]
        self.target = self._model(settings.target, "target")

    def steps(self) -> list[Step]:
        """List what is to do, in order."""
        return [
            self._images(),
            *self._trainings,
            *self._attacks(),
            *(self._evaluation(name) for name in self.sets),
            self._hardening(),
            *self._bundling(),
            *self._device(),
        ]

    def _images(self) -> Step:
        what = self.settings.images
        if isinstance(what, Rendered):
            folder = self.out / "data"
            words = ["deepfusion", "data", "render", "--out", folder, "--seed", self.settings.seed]
            words += ["--train", what.train, "--test", what.test, "--size", what.size]
            return command("images", "Render images", [str(w) for w in words], [folder])
        if isinstance(what, Photographs):
            return Step(
                "images",
                "Take the photographs of the package foolbox",
                None,
                [self.test],
                lambda _: images.photographs(self.test),
            )
        limit, seed = what.limit, self.settings.seed
        return Step(
            "images",
            "Collect the test images",
            [limit, seed, steps.identity(what.test)],
            [self.test],
            lambda _: images.collect(what.test, self.test, limit=limit, seed=seed),
        )

    def _model(self, spec: str, role: str) -> str:
        """Return the SPEC to use; a family's name becomes a file, and a training to make it."""
        if spec not in FAMILIES or self.train is None:
            return spec
        path = self.out / "models" / f"{role}-{spec}.pt2"
        # Every net begins from its own seed: two of one family shall not be the same net.
        seed = self.settings.seed + 1 + len(self._trainings)
        words = ["deepfusion", "train", "--data", self.train, "--arch", spec, "--out", path]
        words += ["--epochs", self.settings.epochs, "--seed", seed]
        self._trainings.append(
            command(
                f"train-{role}",
                f"Train the {role.replace('-', ' ')} ({spec})",
                [str(w) for w in words],
                [path],
                depends=None if self._rendered else steps.identity(self.train),
            )
        )
        return str(path)

    @property
    def _rendered(self) -> bool:
        return isinstance(self.settings.images, Rendered)

    def _attacks(self) -> list[Step]:
        return [
            command(
                f"craft-{name}",
                "Attack the test images on the surrogates"
                if name == summary.ATTACKED
                else "Attack them on other surrogates, which hardening does not see",
                [
                    *("deepfusion", "craft", "--data", self.test),
                    *_options("--surrogate", models),
                    *(
                        "--eps",
                        f"{self.settings.eps:g}",
                        "--steps",
                        str(self.settings.attack_steps),
                    ),
                    *("--seed", str(self.settings.seed), "--out", self.sets[name]),
                    *([] if self.settings.batch is None else ["--batch", str(self.settings.batch)]),
                ],
                [self.sets[name]],
                depends=self._identities(models),
                resumable=True,
            )
            for name, models in (
                (summary.ATTACKED, self.surrogates),
                (summary.HELD_OUT, self.held_out),
            )
            if models
        ]

    def _evaluation(self, name: str) -> Step:
        outputs = [self.evaluation(name), self.evaluation(name).with_suffix(".html")]
        return command(
            f"evaluate-{name}",
            "Judge the attack on the undefended target",
            [
                *("deepfusion", "evaluate", "--data", self.sets[name], "--clean", self.test),
                *("--target", self.target, "--json", outputs[0], "--html", outputs[1]),
            ],
            outputs,
            depends=self._identities([self.target]),
        )

    def _identities(self, specs: list[str]) -> list[object]:
        """Describe the model files of others; what is made here, the steps before describe."""
        paths = [Path(spec) for spec in specs if spec.endswith(".pt2")]
        return [steps.identity(path) for path in paths if not path.is_relative_to(self.out)]

    def evaluation(self, name: str) -> Path:
        """Where the evaluation of an adversarial set is."""
        return self.out / ("evaluate" + self.sets[name].name.removeprefix("attacked") + ".json")

    def _hardening(self) -> Step:
        settings = self.settings
        words: list[str | Path] = ["deepfusion", "harden", "--model", self.target]
        words += ["--data", self.train or self.test, *_options("--surrogate", self.surrogates)]
        words += ["--eps", f"{settings.eps:g}", "--seed", str(settings.seed)]
        if settings.harden_epochs is not None:
            words += ["--epochs", str(settings.harden_epochs)]
        if settings.crafted is not None:
            words += ["--crafted", str(settings.crafted)]
        if settings.false_positive_rate is not None:
            words += ["--false-positive-rate", f"{settings.false_positive_rate:g}"]
        if settings.members is not None:
            words += ["--members", str(settings.members)]
        if settings.shared is not None:
            words += ["--shared", f"{settings.shared:g}"]
        words += ["--out", self.hardened, "--plan", self.plan]
        trained = settings.harden_epochs != 0
        title = "Harden the target" if trained else "Choose where to erode, without training"
        return command("harden", title, words, [self.hardened, self.plan])

    def _bundling(self) -> list[Step]:
        key = self.out / "keys" / "demo"
        private, public = key.with_suffix(".pem"), key.with_suffix(".pub")
        return [
            command(
                "keygen",
                "Make a signing key",
                ["deepfusion-export", "keygen", "--out", key],
                [private, public],
            ),
            command(
                "bundle",
                "Export and sign",
                [
                    *("deepfusion-export", "bundle", "--model", self.hardened, "--plan", self.plan),
                    *("--key", private, "--out", self.bundle),
                ],
                [self.bundle],
            ),
        ]

    def _device(self) -> list[Step]:
        public = self.out / "keys" / "demo.pub"
        words: list[str | Path] = ["install", self.bundle, "--trust", public, "--state", self.state]

        def install(_: bool) -> None:
            device.call_agent(words, self.out / "agent.log")

        def replay(_: bool) -> None:
            received, _configuration = device.replay(
                self.out, self.state, {summary.CLEAN: self.test, **self.sets}
            )
            witness.save(received, self.messages)

        return [
            Step(
                "install",
                "Install on the device",
                None,
                [self.state],
                install,
                command="deepfusion-agent " + " ".join(map(str, words)),
            ),
            Step(
                "replay",
                "Replay clean and attacked frames through the agent",
                None,
                [self.messages, self.out / "agent.json"],
                replay,
                command=f"deepfusion-agent run --config {self.out / 'agent.json'}",
            ),
        ]


def travel(settings: Settings, out: Path, *, fresh: bool = False) -> summary.Result:
    """Go the whole way, or the rest of it; print the table, write ``summary.json`` and the report.

    Raises:
        steps.Stopped, DeepFusionError: a step failed; finished ones are kept for the next time.
    """
    steps.prepare(out, fresh=fresh)
    journey = Journey(settings, out)
    way = journey.steps()
    took = steps.follow(way, out)
    clean = data.load(journey.test)
    predicted = predictions(journey)
    received = witness.read(journey.messages)
    result = summary.judge(summary.labels_of(clean), predicted, received)
    table(settings.title, ["images", *summary.COLUMNS], summary.rows(result))
    facts = summary.as_json(result)
    write_bytes(out / "summary.json", json.dumps(facts, indent=1).encode() + b"\n")
    story = page.Story(
        title=settings.title,
        result=result,
        classes=len(json.loads(journey.plan.read_bytes())["classes"]),
        clean=clean,
        attacked=data.load(journey.sets[summary.ATTACKED], classes=clean.classes),
        predicted=predicted,
        messages=received,
        settings={**asdict(settings), "images": settings.images},
        commands={step.title: step.command for step in way if step.command},
        seconds=took,
        trained=settings.harden_epochs != 0,
        separate=journey.train is not None,
        remarks=settings.remarks,
    )
    page.write(story, out / "report.html")
    print(f"report: {out / 'report.html'}", flush=True)
    return result


def predictions(journey: Journey) -> dict[str, summary.Predictions]:
    """Read what the undefended target said of each saved image, from the evaluations."""
    found: dict[str, summary.Predictions] = {}
    classes = data.load(journey.test).classes
    for name, folder in journey.sets.items():
        order = [summary.key(i.file) for i in data.load(folder, classes=classes).items]
        study = json.loads(journey.evaluation(name).read_text(encoding="utf-8"))
        report = study["sets"][0]["targets"][0]
        found[name] = dict(zip(order, report["predictions"], strict=True))
        found[summary.CLEAN] = dict(zip(order, report["clean_predictions"], strict=True))
    return found


def _options(name: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (name, value)]
