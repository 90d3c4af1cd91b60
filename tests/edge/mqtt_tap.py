"""A TCP proxy before a broker that writes down what client and broker say; MQTT 3.1.1 and 5."""

import contextlib
import select
import socket
import struct
import threading
from typing import NamedTuple

from tests.conftest import free_port


class Connect(NamedTuple):
    level: int
    clean: bool
    expiry_s: int
    will: "Publish | None"


class Subscribe(NamedTuple):
    filters: tuple[tuple[str, int], ...]


class Publish(NamedTuple):
    topic: str
    body: bytes
    qos: int
    retain: bool


class Delivered(NamedTuple):
    """What the broker brought."""

    topic: str
    body: bytes
    retain: bool


class Disconnect(NamedTuple):
    reason: int


class Reader:
    """Takes fields from the front of a packet."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, code):
        size = struct.calcsize(code)
        (value,) = struct.unpack_from(code, self.data, self.at)
        self.at += size
        return value

    def take(self, size):
        self.at += size
        return self.data[self.at - size : self.at]

    def chunk(self):
        return self.take(self.number("!H"))

    def varint(self):
        value = shift = 0
        while True:
            byte = self.number("!B")
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def rest(self):
        return self.data[self.at :]


class Tap:
    """Listens on ``port``; ``said`` holds what was said by anyone, in order."""

    def __init__(self, broker):
        self.host, self.port = "127.0.0.1", free_port()
        self.said = []
        self._broker, self._levels = broker, {}
        self._server = socket.create_server((self.host, self.port))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self):
        self._ends.set()
        self._thread.join()
        self._server.close()

    def _serve(self):
        pairs, buffers, names = {}, {}, {}
        while not self._ends.is_set():
            for end in select.select([self._server, *pairs], [], [], 0.05)[0]:
                if end is self._server:
                    client, _ = self._server.accept()
                    try:
                        broker = socket.create_connection((self._broker.host, self._broker.port))
                    except OSError:
                        client.close()
                        continue
                    pairs.update({client: broker, broker: client})
                    buffers.update({client: b"", broker: b""})
                    names.update({client: (client, True), broker: (client, False)})
                    continue
                if end not in pairs:
                    continue
                data = b""
                with contextlib.suppress(OSError):
                    data = end.recv(2**16)
                if not data:
                    other = pairs.pop(end)
                    pairs.pop(other, None)
                    end.close()
                    other.close()
                    continue
                buffers[end] = self._read(buffers[end] + data, *names[end])
                with contextlib.suppress(OSError):
                    pairs[end].sendall(data)
        for end in pairs:
            end.close()

    def _read(self, data, client, outwards):
        """Take whole packets from the front and return what is left."""
        while len(data) >= 2:
            reader = Reader(data)
            first = reader.number("!B")
            try:
                size = reader.varint()
            except struct.error:
                return data
            if len(reader.rest()) < size:
                return data
            packet = Reader(reader.take(size))
            data = reader.rest()
            read = {1: self._connect, 3: self._publish, 8: self._subscribe, 14: self._disconnect}
            if first >> 4 in read:
                found = read[first >> 4](first, packet, client, outwards)
                if found is not None:
                    self.said.append(found)
        return data

    def _connect(self, _, packet, client, outwards):
        del outwards
        packet.chunk()
        level, flags = packet.number("!B"), packet.number("!B")
        packet.number("!H")
        self._levels[client] = level
        expiry = 0
        if level == 5:
            properties = Reader(packet.take(packet.varint()))
            while properties.rest():
                kind = properties.number("!B")
                value = properties.number("!I" if kind in {17, 39} else "!H")
                expiry = value if kind == 17 else expiry
        packet.chunk()
        will = None
        if flags & 4:
            if level == 5:
                packet.take(packet.varint())
            topic = packet.chunk().decode()
            will = Publish(topic, packet.chunk(), flags >> 3 & 3, bool(flags & 32))
        return Connect(level, bool(flags & 2), expiry, will)

    def _publish(self, first, packet, client, outwards):
        topic, qos = packet.chunk().decode(), first >> 1 & 3
        if qos:
            packet.number("!H")
        if self._levels[client] == 5:
            packet.take(packet.varint())
        if outwards:
            return Publish(topic, packet.rest(), qos, bool(first & 1))
        return Delivered(topic, packet.rest(), bool(first & 1))

    def _subscribe(self, _, packet, client, outwards):
        del outwards
        packet.number("!H")
        if self._levels[client] == 5:
            packet.take(packet.varint())
        filters = []
        while packet.rest():
            filters.append((packet.chunk().decode(), packet.number("!B") & 3))
        return Subscribe(tuple(filters))

    def _disconnect(self, _, packet, client, outwards):
        del client
        if not outwards:
            return None
        return Disconnect(packet.number("!B") if packet.rest() else 0)
