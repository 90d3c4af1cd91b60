"""The TLS side of a connection to the broker: 1.2 or newer, verified, client certificate."""

import ssl
from pathlib import Path

from deepfusion_edge.config import Tls
from deepfusion_edge.errors import InputError


class _Socket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Read the configured PEM files.

    Raises:
        InputError: one is missing, no PEM, or an encrypted key.
    """
    for field, path in (
        ("ca_file", tls.ca_file),
        ("cert_file", tls.cert_file),
        ("key_file", tls.key_file),
    ):
        if path is not None and not Path(path).is_file():
            raise InputError(f"mqtt.tls.{field} {path} is no file", "check the path")
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.sslsocket_class = _Socket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.cert_file is not None:
            # An empty password: never ask for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    except (OSError, ValueError) as error:
        raise InputError(
            f"mqtt.tls: certificate or key cannot be used ({error})", "give unencrypted PEM files"
        ) from error
    return context


def tls_problem(error: ssl.SSLError) -> str:
    """Say what a failed handshake asks the user to check."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}), check mqtt.tls.ca_file"
    return f"TLS failed ({error.reason or error}), check mqtt.tls and mqtt.port"
