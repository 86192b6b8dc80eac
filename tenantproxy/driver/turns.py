"""How does a connection of the driver go from tenant to tenant? By one message, whose answer only the server knows.

State: the nonce of the next proof. Changed by the lender of the connection alone.
"""

from __future__ import annotations

from tenantproxy.connect.failures import Unconfirmed
from tenantproxy.driver.connection import TenantConnection
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.turn import AGAIN, FREE, HELLO, RESET_ALONE, UNLOCK, Asked, enter, keep, until_second
from tenantproxy.model import Binding, Proof
from tenantproxy.wire.frames import DATA_ROW

__all__ = ["SessionTurns"]


class SessionTurns:
    """The turns of one connection. After an exception of any method, it must be destroyed.

    `apart`: its role can leave code that would run in a reset and read the proof there, so the entry is a message of
    its own.
    """

    __slots__ = ("_apart", "_con", "_kept", "_nonce", "_proof", "_signer", "_until")

    def __init__(self, con: TenantConnection, signer: Signer, *, proof: Proof, apart: bool) -> None:
        self._con = con
        self._signer = signer
        self._apart = apart
        self._proof = proof
        self._nonce = 0
        self._until = 0  # unix seconds: the last entry is good so long
        self._kept: tuple[Binding, str, int, Asked] | None = None  # the last one, and what it was made of

    async def open(self, timeout: float) -> None:
        """Prepare what is said at each turn, and learn the nonce of the first. The session is no tenant's yet."""
        await self._con.prepare_entry((HELLO, AGAIN if self._proof is Proof.TRUSTED else UNLOCK), timeout)
        await self.hello()

    async def hello(self) -> None:
        """Learn the nonce of the next turn: the session is new, or went through DISCARD ALL."""
        nonce = await self._con.enter(())
        if not isinstance(nonce, int):
            raise Unconfirmed(DATA_ROW)
        self._nonce = nonce

    async def change(self, binding: Binding, *, server_now: float, window: float) -> None:
        """Reset the session, whosever it was, and make it the tenant's for `window` seconds."""
        if self._apart:
            await self._con.ask(RESET_ALONE)
        await self._enter(binding, server_now, window, resets=not self._apart)

    async def renew(self, binding: Binding, *, server_now: float, window: float) -> None:
        """Let a session that is the tenant's be so for longer, between two transactions of its user."""
        await self._enter(binding, server_now, window, resets=False)

    async def keep(self, binding: Binding) -> None:
        """Reset a session that stays its tenant's."""
        await self._con.ask(self.kept(binding))

    def kept(self, binding: Binding) -> Asked:
        """How a session that stays its tenant's is reset."""
        kept, name, until = self._kept, self._con.own_name(1), self._until
        if kept is None or kept[0] is not binding or kept[1] != name or kept[2] != until:
            kept = self._kept = binding, name, until, keep(binding, until=until, name=name)
        return kept[3]

    async def unbind(self) -> None:
        """Reset a session that is no tenant's afterwards. Only numbers of sequences end with the next entry.

        Its tenant may have drawn another nonce, for which no proof that is made here is good: so does this.
        """
        await self._con.ask(FREE)
        await self.hello()

    async def _enter(self, binding: Binding, server_now: float, window: float, *, resets: bool) -> None:
        con, self._until = self._con, until_second(server_now, window)
        said, nonce = enter(
            binding,
            self._signer,
            pid=con.get_server_pid(),
            nonce=self._nonce,
            prepared=con.prepared,
            server_now=server_now,
            window=window,
            resets=resets,
        )
        await con.say(said)
        self._nonce = nonce
