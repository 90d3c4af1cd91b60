"""From labels, predictions and received decisions to counts: pure arithmetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec

from benchmarks.demo.witness import Received
from deepfusion_edge.errors import InputError
from deepfusion_edge.report.payload import Decision
from deepfusion_toolkit.data import Dataset
from deepfusion_toolkit.report import share

Predictions = Mapping[str, int]
"""Image key (see :func:`key`) -> predicted class number."""

CLEAN, ATTACKED, HELD_OUT = "clean", "attacked", "held-out"
"""The agent's sources: images as they are, and attacked on the known or on other surrogates."""


def key(file: str) -> str:
    """Name an image without its suffix: an attacked one is a PNG whatever the clean one was."""
    return PurePosixPath(file).with_suffix("").as_posix()


def labels_of(dataset: Dataset) -> dict[str, int]:
    """Return the true class number of each image, by its key."""
    return {key(item.file): item.label for item in dataset.items}


def decisions(messages: Sequence[Received]) -> dict[str, dict[str, Decision]]:
    """Sort the decisions among the messages by source and image key; repetitions count once.

    Raises:
        InputError: a message on a decision's topic is no decision.
    """
    found: dict[str, dict[str, Decision]] = {}
    for message in messages:
        if "/decision/" not in message.topic:
            continue
        try:
            one = msgspec.json.decode(message.payload, type=Decision)
        except msgspec.DecodeError as error:
            raise InputError(
                f"a message on {message.topic} is no decision ({error})",
                "use an agent of this version",
            ) from error
        found.setdefault(one.source, {}).setdefault(key(one.frame), one)
    return found


class Outcome(NamedTuple):
    """What became of a set of images.

    Attributes:
        images: how many.
        right: predicted as labelled.
        flagged: verdict suspect or reject; 0 where nobody gives verdicts.
        missed: predicted wrongly and not flagged: what passes the inspection.
    """

    images: int
    right: int
    flagged: int
    missed: int


def undefended(labels: Mapping[str, int], predicted: Predictions) -> Outcome:
    """Count a plain model's predictions.

    Raises:
        InputError: an image has no prediction.
    """
    _require(labels, predicted, "no prediction of the undefended model")
    right = sum(predicted[name] == label for name, label in labels.items())
    return Outcome(len(labels), right, 0, len(labels) - right)


def defended(labels: Mapping[str, int], judged: Mapping[str, Decision]) -> Outcome:
    """Count the agent's decisions.

    Raises:
        InputError: an image has no decision.
    """
    _require(labels, judged, "no decision received over MQTT")
    right = {name for name, label in labels.items() if judged[name].label == label}
    flagged = {name for name in labels if judged[name].state != "accept"}
    missed = len(labels.keys() - right - flagged)
    return Outcome(len(labels), len(right), len(flagged), missed)


def _require(labels: Mapping[str, int], found: Mapping[str, object], what: str) -> None:
    absent = sorted(labels.keys() - found.keys())
    if absent:
        raise InputError(
            f"{what} for {len(absent)} of {len(labels)} images, the first is {absent[0]}",
            "start again with --fresh",
        )


@dataclass(frozen=True)
class Attack:
    """One adversarial set and both answers to it."""

    undefended: Outcome
    defended: Outcome


@dataclass(frozen=True)
class Result:
    """All counts of a journey; ``held_out``: crafted on surrogates that hardening never saw."""

    clean: Attack
    attacked: Attack
    held_out: Attack | None
    mqtt_messages_received: int


def judge(
    labels: Mapping[str, int],
    predicted: Mapping[str, Predictions],
    messages: Sequence[Received],
) -> Result:
    """Count everything.

    Args:
        labels: true class numbers of all images.
        predicted: source name -> predictions of the undefended model.
        messages: what the second client received.

    Raises:
        InputError: an image has no prediction or no decision.
    """
    received = decisions(messages)

    def one(source: str) -> Attack:
        return Attack(
            undefended(labels, predicted[source]), defended(labels, received.get(source, {}))
        )

    return Result(
        clean=one(CLEAN),
        attacked=one(ATTACKED),
        held_out=one(HELD_OUT) if HELD_OUT in predicted else None,
        mqtt_messages_received=len(messages),
    )


def as_json(result: Result) -> dict[str, int | float]:
    """Name the counts as ``summary.json`` does; shares in [0, 1]."""
    clean, attacked = result.clean, result.attacked
    found: dict[str, int | float] = {
        "images": clean.undefended.images,
        "clean_accuracy": _share(clean.undefended),
        "attacked_accuracy": _share(attacked.undefended),
        "defended_accuracy": _share(attacked.defended),
        "defended_clean_accuracy": _share(clean.defended),
        "flagged_attacked": attacked.defended.flagged,
        "flagged_clean": clean.defended.flagged,
        "missed_attacked": attacked.defended.missed,
        "missed_clean": clean.defended.missed,
        "mqtt_messages_received": result.mqtt_messages_received,
    }
    if result.held_out is not None:
        found |= {
            "held_out_attacked_accuracy": _share(result.held_out.undefended),
            "held_out_defended_accuracy": _share(result.held_out.defended),
            "held_out_flagged_attacked": result.held_out.defended.flagged,
            "held_out_missed_attacked": result.held_out.defended.missed,
        }
    return found


def _share(outcome: Outcome) -> float:
    return round(outcome.right / outcome.images, 6)


COLUMNS = ("classified correctly", "flagged", "wrong and not flagged")


def rows(result: Result) -> list[tuple[str, str, str, str]]:
    """Lay the counts out under a name and :data:`COLUMNS`, each with its count."""
    pairs = [("clean", result.clean), ("attacked", result.attacked)]
    if result.held_out is not None:
        pairs.append(("attacked, other surrogates", result.held_out))
    found = []
    for name, attack in pairs:
        plain, agent = attack.undefended, attack.defended
        found += [
            (name, share(plain.right, plain.images), "-", share(plain.missed, plain.images)),
            (
                f"{name}, defended",
                share(agent.right, agent.images),
                share(agent.flagged, agent.images),
                share(agent.missed, agent.images),
            ),
        ]
    return found
