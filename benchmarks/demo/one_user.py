"""For the embedded broker: one user with one password, and nobody else."""

import hmac
from dataclasses import dataclass

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session


class OneUser(BaseAuthPlugin):  # type: ignore[misc] # amqtt has no type hints
    """Lets in who knows both."""

    @dataclass
    class Config:
        """Filled by the broker from its ``plugins`` section."""

        user: str
        password: str

    async def authenticate(self, *, session: Session) -> bool:
        """Compare in constant time."""
        user = hmac.compare_digest((session.username or "").encode(), self.config.user.encode())
        password = (session.password or "").encode()
        return user and hmac.compare_digest(password, self.config.password.encode())
