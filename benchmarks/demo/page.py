"""The report of a journey: one self-contained page, with what was measured and what was not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.demo import broker, images, summary
from benchmarks.demo.witness import Received
from deepfusion_toolkit import __version__, report
from deepfusion_toolkit.data import Dataset, Item
from deepfusion_toolkit.report.sections import Section, Tone
from deepfusion_toolkit.statistics import share as interval

SHOWN_IMAGES = 6
MAGNIFIED = 8.0


@dataclass(frozen=True)
class Story:
    """All that the page tells.

    Attributes:
        title: of the page.
        result: the counts.
        classes: how many the model tells apart.
        clean, attacked: the images, the same ones under the same keys.
        predicted: source -> predictions of the undefended target.
        messages: as the second client received them.
        settings: names and values.
        commands: title of a step -> what was typed.
        seconds: name of a step -> how long it took.
        trained: whether the target was hardened by training.
        separate: whether hardening had other images than the ones judged here.
        remarks: paragraphs that are true of this journey alone.
    """

    title: str
    result: summary.Result
    classes: int
    clean: Dataset
    attacked: Dataset
    predicted: Mapping[str, summary.Predictions]
    messages: Sequence[Received]
    settings: Mapping[str, object]
    commands: Mapping[str, str]
    seconds: Mapping[str, float]
    trained: bool
    separate: bool
    remarks: Sequence[str]


def write(story: Story, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    result = story.result
    images_used = result.clean.undefended.images
    subtitle = (
        f"{images_used} images, attacked as a black box, judged by a signed bundle on the agent;"
        " its verdicts as a second MQTT client received them"
    )
    sections: list[Section] = [
        report.Figures(list(_figures(story))),
        report.Table(
            ["images", *summary.COLUMNS],
            summary.rows(result),
            heading="What was counted",
            note="Flagged: verdict suspect or reject. The last column is what passes an inspection"
            " unseen. Only the agent gives verdicts, so the undefended rows have none.",
        ),
        report.Bars(
            list(_bars(result)),
            heading="Classified correctly",
            note="Lines are 95 % bootstrap intervals over images.",
        ),
        report.Strip(
            list(_pictures(story)),
            heading="Pictures",
            note=f"The perturbation is magnified {MAGNIFIED:g} times around grey. Chosen by rule,"
            " not by look: of each kind of outcome in turn, and class by class, the first image"
            " by name.",
        ),
        report.Messages(
            list(_messages(story.messages)),
            heading="On MQTT",
            note=f"Payloads as received by the second client, {result.mqtt_messages_received} in"
            f" all; the broker was embedded ({broker.LABEL}). Every decision holds seed and stream,"
            " from which its erosion factors can be drawn again.",
        ),
        report.Text("\n\n".join(_caveats(story)), heading="What this shows, and what it does not"),
        report.Settings(_flat(story.settings), heading="Settings"),
        report.Settings(dict(story.commands), heading="Commands that were run"),
        report.Settings(
            {name: f"{seconds:.1f} s" for name, seconds in story.seconds.items()},
            heading="Time on this machine",
        ),
    ]
    footer = f"deepfusion {__version__}"
    report.write_html(path, report.page(story.title, sections, subtitle=subtitle, footer=footer))


def _figures(story: Story) -> Iterator[report.Figure]:
    result = story.result
    clean, attacked = result.clean, result.attacked

    def figure(label: str, hits: int, total: int, note: str, tone: Tone = "plain") -> report.Figure:
        value = f"{100 * hits / total:.0f} %"
        return report.Figure(label, value, f"{hits} of {total} {note}", tone)

    total = clean.undefended.images
    better = attacked.defended.right > attacked.undefended.right
    agent = f"right; defended {clean.defended.right}"
    yield figure("Clean", clean.undefended.right, total, agent)
    yield figure("Attacked", attacked.undefended.right, total, "right", "bad")
    yield figure(
        "Attacked, defended", attacked.defended.right, total, "right", "good" if better else "bad"
    )
    yield figure("Attacked: flagged", attacked.defended.flagged, total, "suspect or rejected")
    yield figure("Clean: flagged", clean.defended.flagged, total, "false alarms")


def _bars(result: summary.Result) -> Iterator[report.Bar]:
    def bar(label: str, outcome: summary.Outcome, tone: Tone) -> report.Bar:
        share = interval(outcome.right, outcome.images)
        return report.Bar(label, share.value, share.low, share.high, outcome.images, tone)

    pairs = [("clean", result.clean), ("attacked", result.attacked)]
    if result.held_out is not None:
        pairs.append(("other surrogates", result.held_out))
    for name, attack in pairs:
        yield bar(name, attack.undefended, "plain" if attack is result.clean else "bad")
        yield bar(f"{name}, defended", attack.defended, "good")


def choose(story: Story, count: int) -> list[tuple[Item, str]]:
    """Choose images to show: of each kind of outcome in turn, the first of a class not yet shown.

    Returns:
        Items of the clean set with a word on what happened, at most ``count``.
    """
    judged = summary.decisions(story.messages)[summary.ATTACKED]
    plain_clean, plain = (story.predicted[s] for s in (summary.CLEAN, summary.ATTACKED))
    kinds: dict[str, list[Item]] = {
        "the attack works, the defence holds": [],
        "the attack works, the defence is fooled but flags it": [],
        "the attack works on both": [],
        "the attack fails": [],
    }
    for item in sorted(story.clean.items, key=lambda i: i.file):
        name = summary.key(item.file)
        if plain_clean[name] != item.label:
            continue  # wrong from the start: nothing to attack
        holds, flagged = judged[name].label == item.label, judged[name].state != "accept"
        works = plain[name] != item.label
        number = 3 if not works else 0 if holds else 1 if flagged else 2
        list(kinds.values())[number].append(item)
    chosen: list[tuple[Item, str]] = []
    shown: set[int] = set()
    while len(chosen) < count and any(kinds.values()):
        for kind, items in kinds.items():
            if items and len(chosen) < count:
                best = next((i for i in items if i.label not in shown), items[0])
                items.remove(best)
                shown.add(best.label)
                chosen.append((best, kind))
    order = list(kinds)
    return sorted(chosen, key=lambda pair: order.index(pair[1]))


def _pictures(story: Story) -> Iterator[report.PictureRow]:
    judged = summary.decisions(story.messages)[summary.ATTACKED]
    attacked = {summary.key(item.file): item for item in story.attacked.items}
    # Numbered classes of a labels.csv are the thousand of ImageNet, or stay numbers.
    imagenet = images.class_names(1000) if story.classes == 1000 else None  # noqa: PLR2004
    name_of = _Names(imagenet, story.clean)
    for item, kind in choose(story, SHOWN_IMAGES):
        name = summary.key(item.file)
        before, after = story.clean.read(item), story.attacked.read(attacked[name])
        decision = judged[name]

        def said(by: str, label: int, true: int = item.label, note: str = "") -> report.Prediction:
            return report.Prediction(by, name_of(label), label == true, note)

        yield report.PictureRow(
            f"{name_of(item.label)} ({item.file}): {kind}",
            [
                report.Picture(
                    before,
                    "clean",
                    [said("undefended", story.predicted[summary.CLEAN][name])],
                ),
                report.Picture(
                    report.perturbation(before, after, MAGNIFIED),
                    f"perturbation, x{MAGNIFIED:g}",
                ),
                report.Picture(
                    after,
                    "attacked",
                    [
                        said("undefended", story.predicted[summary.ATTACKED][name]),
                        said("defended", decision.label, note=decision.state),
                    ],
                ),
            ],
        )


class _Names:
    """Class number -> the name to show."""

    def __init__(self, names: Sequence[str] | None, dataset: Dataset) -> None:
        self._names, self._dataset = names, dataset

    def __call__(self, label: int) -> str:
        if self._names is not None and 0 <= label < len(self._names):
            return f"{self._names[label]} ({label})"
        return self._dataset.name(label)


def _messages(messages: Sequence[Received]) -> Iterator[report.Message]:
    """Show the first of each topic, and the last state: hello, decisions, an alert, goodbye."""
    seen: dict[str, int] = {}
    for message in messages:
        seen[message.topic] = seen.get(message.topic, 0) + 1
    shown: set[str] = set()
    for number, message in enumerate(messages):
        last = message.topic.endswith("/state") and number == len(messages) - 1
        if message.topic in shown and not last:
            continue
        shown.add(message.topic)
        note = f"QoS {message.qos}; message {number + 1} of {len(messages)}"
        note += f", {seen[message.topic]} on this topic"
        yield report.Message(message.topic, _readable(message.payload), note)


def _readable(payload: bytes) -> str:
    try:
        return msgspec.json.format(payload, indent=1).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return payload.decode(errors="backslashreplace")


def _caveats(story: Story) -> Iterator[str]:
    yield (
        "Deep Fusion (Wang et al., IEEE Transactions on Industrial Informatics, 2023) is"
        " reconstructed here from its published description; its authors' code was not available."
        " These figures and theirs cannot be compared one to one."
    )
    if story.trained:
        yield (
            "Hardening trained on transfer examples from the same public surrogates that this"
            " attacker used, on other images. That is the favourable case: an attacker with other"
            " surrogates, another method or queries to the device may fare better."
        )
    else:
        yield (
            "The target was not trained against the attack: only erosion sites, their strength and"
            " the limits of the flags were chosen. Erosion without training helps little, and this"
            " is its result as it is."
        )
    if not story.separate:
        yield (
            "Sites, strength and limits were chosen on the very images that are judged here,"
            " because there are no others. Figures for clean images are flattered by that."
        )
    if story.result.held_out is not None:
        yield "The rows of other surrogates are attacks crafted on models that hardening never saw."
    total = story.result.clean.undefended.images
    yield (
        f"{total} images give wide intervals. Nothing here was run on a device, and no attacker who"
        " averages over erosion, or asks the device again and again, was tried."
    )
    yield from story.remarks


def _flat(settings: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in settings.items():
        if name in {"title", "remarks"} or value in (None, ()):
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, tuple | list) else value
        found[name.replace("_", " ")] = shown
    return found
