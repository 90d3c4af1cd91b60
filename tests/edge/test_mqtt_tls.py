"""TLS to a real mosquitto: trusted, not trusted, too old, and files that are no PEM."""

import base64
import datetime as dt
import ipaddress
import json
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deepfusion_edge.config import Mqtt, Tls
from deepfusion_edge.errors import InputError
from deepfusion_edge.outbox import Outbox
from deepfusion_edge.report.messages import Subscription
from deepfusion_edge.report.payload import AgentState
from deepfusion_edge.report.publisher import Publisher
from tests.edge.mqtt_parts import publisher_for, put, running, wait


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "broker")])
    today = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return tmp_path


def run_once(port, folder, tls, *, drain_timeout_s):
    state = AgentState(agent="line-1", state="online", reason="running")
    with Outbox(folder, max_events=9, max_bytes=2**20, ttl_s=None) as box:
        box.put("alert", lambda _: b"x", now_s=0.0)
        publisher = Publisher(Mqtt(port=port, tls=tls), box, lambda: state)
        finish = threading.Event()
        finish.set()
        publisher.run(finish, drain_timeout_s=drain_timeout_s)
        return publisher, box.kept


def options(folder, extra=""):
    return f"certfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n{extra}"


def test_a_trusted_broker(make_broker, certificate):
    broker = make_broker(options=options(certificate))
    tls = Tls(ca_file=str(certificate / "cert.pem"))
    publisher, kept = run_once(broker.port, certificate, tls, drain_timeout_s=10)
    assert (publisher.answered, kept) == (True, 0)


def test_a_broker_nobody_vouches_for(make_broker, certificate):
    broker = make_broker(options=options(certificate))
    publisher, kept = run_once(broker.port, certificate, Tls(), drain_timeout_s=1)
    assert (publisher.answered, kept) == (False, 1)
    assert "not trusted" in publisher.reason
    assert "mqtt.tls.ca_file" in publisher.reason


def test_a_broker_that_asks_for_a_client_certificate(make_broker, certificate):
    extra = f"cafile {certificate}/cert.pem\nrequire_certificate true\n"
    broker = make_broker(options=options(certificate, extra))
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    publisher, kept = run_once(broker.port, certificate, Tls(ca_file=cert), drain_timeout_s=1)
    assert (publisher.answered, kept) == (False, 1)
    tls = Tls(ca_file=cert, cert_file=cert, key_file=key)
    publisher, kept = run_once(broker.port, certificate, tls, drain_timeout_s=10)
    assert (publisher.answered, kept) == (True, 0)


def test_files_that_are_missing_or_no_pem(certificate):
    with pytest.raises(InputError, match="ca_file"):
        run_once(1, certificate, Tls(ca_file=str(certificate / "none.pem")), drain_timeout_s=0)
    (certificate / "junk.pem").write_text("junk")
    with pytest.raises(InputError, match=r"mqtt\.tls: "):
        run_once(1, certificate, Tls(ca_file=str(certificate / "junk.pem")), drain_timeout_s=0)


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_much_goes_both_ways_between_certificates(make_broker, certificate, outbox, node, protocol):
    """TLS hands over records, select sees sockets: nothing may stay in between."""
    extra = f"cafile {certificate}/cert.pem\nrequire_certificate true\n"
    broker = make_broker(options=options(certificate, extra))
    cert, key = str(certificate / "cert.pem"), str(certificate / "key.pem")
    got = []
    heard = Subscription("deepfusion/line-1/decision/cam", 1, got.append)
    put(outbox, *(f"{n}:" + "x" * (n % 7) * 10_000 for n in range(300)))
    tls = Tls(ca_file=cert, cert_file=cert, key_file=key)
    url = f"mqtts://127.0.0.1:{broker.port}"
    with node("listen.mjs", url, "4" if protocol == "3.1.1" else "5", cert, cert, key) as process:
        assert json.loads(process.stdout.readline()) == "ready"
        publisher = publisher_for(broker, outbox, tls=tls, protocol=protocol, subscriptions=[heard])
        with running(publisher):
            wait(lambda: not outbox.kept and len(got) == 300, 60)
        theirs = []
        while len(theirs) < 300:
            message = json.loads(process.stdout.readline())
            if message["topic"].endswith("/cam"):
                theirs.append(base64.b64decode(message["body"]))
        process.kill()
        process.communicate()
    numbers = [int(message.payload.split(b":")[0]) for message in got]
    assert numbers == list(range(300))
    assert theirs == [message.payload for message in got]
