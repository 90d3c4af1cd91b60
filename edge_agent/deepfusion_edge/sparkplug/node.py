"""The session of one Sparkplug edge node: births, data and deaths with their numbers. Pure.

It follows the Sparkplug 3.0 specification: ``seq`` counts the messages of the node *and* its
devices from 0 in the NBIRTH to 255 and on from 0; an alias names one metric of one device in the
whole node; births tell name, alias, type and current value of every metric, data the alias and the
value; an NDEATH holds ``bdSeq`` alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

from deepfusion_edge.sparkplug.payload import DataType, Metric, Payload, Value, encode, value_of

NAMESPACE = "spBv1.0"
BDSEQ = "bdSeq"
REBIRTH = "Node Control/Rebirth"
BDSEQ_VALUES = SEQ_VALUES = 256
_BDSEQ_ALIAS = 1  # the others follow; Rebirth must have none

Content = float | str | None
Catalogue = Mapping[str, DataType]


class Sent(NamedTuple):
    """One message: topic and payload."""

    topic: str
    body: bytes


class Place:
    """The metrics of the node or of one device: aliases and current values."""

    def __init__(self, catalogue: Catalogue, first_alias: int) -> None:
        self.alias = {name: first_alias + at for at, name in enumerate(catalogue)}
        self.value: dict[str, Value | None] = dict.fromkeys(catalogue)
        self.time_ms = dict.fromkeys(catalogue, 0)
        self.catalogue = catalogue

    def set(self, values: Mapping[str, Content], time_ms: int) -> list[str]:
        """Take values over and return the names of those that changed."""
        changed = []
        for name, content in values.items():
            value = None if content is None else value_of(self.catalogue[name], content)
            if value != self.value[name]:
                self.value[name], self.time_ms[name] = value, time_ms
                changed.append(name)
        return changed

    def born(self, time_ms: int) -> tuple[Metric, ...]:
        """Return every metric in full."""
        return tuple(
            Metric(
                name, self.alias[name], self.time_ms[name] or time_ms, datatype, self.value[name]
            )
            for name, datatype in self.catalogue.items()
        )


class Node:
    """One edge node.

    Attributes:
        bd_seq: number of the MQTT session, in its will and in its birth.
        devices: those that were born and did not die, by name.
    """

    def __init__(
        self, group: str, node: str, node_metrics: Catalogue, device_metrics: Catalogue
    ) -> None:
        """Make a node that is not yet born."""
        self._group, self._name = group, node
        self._device_metrics = device_metrics
        self._place = Place(node_metrics, _BDSEQ_ALIAS + 1)
        self._places: dict[str, Place] = {}
        self._seq = SEQ_VALUES - 1
        self.bd_seq = 0
        self.devices: set[str] = set()

    def topic(self, verb: str, device: str | None = None) -> str:
        """Spell a topic of this node."""
        end = "" if device is None else f"/{device}"
        return f"{NAMESPACE}/{self._group}/{verb}/{self._name}{end}"

    def death(self, time_ms: int) -> Sent:
        """Spell the NDEATH of this session: its will, and its last message."""
        metric = self._bd_seq(time_ms)
        return Sent(self.topic("NDEATH"), encode(Payload(time_ms, (metric,))))

    def birth(self, time_ms: int) -> Sent:
        """Begin: the NBIRTH; every device must be born again."""
        self._seq = SEQ_VALUES - 1
        self.devices.clear()
        rebirth = Metric(
            REBIRTH, None, time_ms, DataType.BOOLEAN, value_of(DataType.BOOLEAN, content=False)
        )
        metrics = (self._bd_seq(time_ms, _BDSEQ_ALIAS), rebirth, *self._place.born(time_ms))
        return self._sent("NBIRTH", None, metrics, time_ms)

    def device_birth(self, device: str, time_ms: int) -> Sent:
        """Spell the DBIRTH of a device; its values survive its death."""
        self.devices.add(device)
        return self._sent("DBIRTH", device, self._device(device).born(time_ms), time_ms)

    def device_death(self, device: str, time_ms: int) -> Sent:
        """Spell the DDEATH of a device."""
        self.devices.discard(device)
        return self._sent("DDEATH", device, (), time_ms)

    def know(self, values: Mapping[str, Content], time_ms: int) -> list[str]:
        """Take over the node's own values before its birth and return those that changed."""
        return self._place.set(values, time_ms)

    def data(
        self, values: Mapping[str, Content], taken_ms: int, time_ms: int, *, historical: bool
    ) -> Sent:
        """Spell an NDATA with values of the node as of ``taken_ms``."""
        return self._data("NDATA", None, values, taken_ms, time_ms, historical)

    def device_data(
        self,
        device: str,
        values: Mapping[str, Content],
        taken_ms: int,
        time_ms: int,
        *,
        historical: bool,
    ) -> Sent:
        """Spell a DDATA with values of a device as of ``taken_ms``."""
        return self._data("DDATA", device, values, taken_ms, time_ms, historical)

    def _data(
        self,
        verb: str,
        device: str | None,
        values: Mapping[str, Content],
        taken_ms: int,
        time_ms: int,
        historical: bool,
    ) -> Sent:
        place = self._place if device is None else self._device(device)
        place.set(values, taken_ms)
        metrics = tuple(
            Metric(None, place.alias[name], taken_ms, None, place.value[name], historical)
            for name in values
        )
        return self._sent(verb, device, metrics, time_ms)

    def _sent(
        self, verb: str, device: str | None, metrics: tuple[Metric, ...], time_ms: int
    ) -> Sent:
        self._seq = (self._seq + 1) % SEQ_VALUES
        return Sent(self.topic(verb, device), encode(Payload(time_ms, metrics, self._seq)))

    def _bd_seq(self, time_ms: int, alias: int | None = None) -> Metric:
        value = value_of(DataType.INT64, self.bd_seq)
        return Metric(BDSEQ, alias, time_ms, DataType.INT64, value)

    def _device(self, device: str) -> Place:
        if device not in self._places:
            used = len(self._place.alias) + len(self._places) * len(self._device_metrics)
            self._places[device] = Place(self._device_metrics, _BDSEQ_ALIAS + 1 + used)
        return self._places[device]
