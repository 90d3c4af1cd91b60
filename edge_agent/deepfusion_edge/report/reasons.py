"""Why there is no connection, in words that say what to do. Pure."""

import socket
import ssl

from deepfusion_edge.report.tls import tls_problem


def refusal(reason: str) -> str:
    """Say what a CONNACK other than success asks the user to do."""
    text = f"the broker refused the connection ({reason})"
    if any(sign in reason.lower() for sign in ("user name", "password", "authori")):
        text += ", check mqtt.username and the password"
    return text


def connection_problem(error: Exception) -> str:
    """Say why no connection was opened."""
    if isinstance(error, ssl.SSLError):
        return tls_problem(error)
    if isinstance(error, socket.gaierror):
        return f"host name not found ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
