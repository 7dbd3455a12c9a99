"""A real SMTP server on a free loopback port, which keeps each mail as one JSON file and can be told to misbehave.

Settings come as one JSON object in the first argument:
  directory   where `ready.json` (written last, with both ports) and `mails/` go
  security    "none", "starttls" (required before anything else) or "tls" (from the first byte)
  certificate, key   PEM files, for the two last
  user, password     when given, AUTH is required
  smtputf8    whether SMTPUTF8 is offered

The control port takes one mode a line and answers `ok` once it holds:
  accept, refuse, defer-rcpt, defer-data, reject-rcpt, hang, drop, keep-and-drop
"""

import asyncio
import base64
import email
import email.policy
import json
import os
import socket
import ssl
import sys
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

SETTINGS: dict[str, Any] = json.loads(sys.argv[1])
DIRECTORY: str = SETTINGS["directory"]
MODES = {"accept", "refuse", "defer-rcpt", "defer-data", "reject-rcpt", "hang", "drop", "keep-and-drop"}


class State:
    """What the control port changes and what the stories ask about."""

    mode = "accept"
    mails = 0
    faults = 0
    connections = 0


def write_whole(path: str, value: Any) -> None:
    """Write a file so that a reader sees all of it or none."""
    with open(path + ".part", "w", encoding="utf-8") as out:
        json.dump(value, out)
    os.replace(path + ".part", path)


def part_text(message: email.message.EmailMessage, subtype: str) -> str | None:
    """Give the first part of type `text/{subtype}`, its transfer encoding and charset undone."""
    for part in message.walk():
        if part.get_content_type() == f"text/{subtype}" and not part.is_attachment():
            return part.get_content()
    return None


def keep(session: Any, envelope: Any) -> None:
    """Store one mail under the next number."""
    raw: bytes = envelope.original_content
    message = email.message_from_bytes(raw, policy=email.policy.default)
    State.mails += 1
    write_whole(
        os.path.join(DIRECTORY, "mails", f"{State.mails:06}.json"),
        {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "raw": base64.b64encode(raw).decode(),
            "headers": [[name, str(value)] for name, value in message.items()],
            "text": part_text(message, "plain"),
            "html": part_text(message, "html"),
            "tls": session.ssl is not None or SETTINGS["security"] == "tls",
            "authenticated": bool(session.authenticated),
            "smtputf8": bool(getattr(envelope, "smtp_utf8", False)),
        },
    )


async def forever() -> None:
    """Wait for what never comes; the connection's end ends this."""
    await asyncio.Event().wait()


class Handler:
    """The answers of the server, by mode."""

    async def handle_MAIL(self, server, session, envelope, address, mail_options):  # noqa: N802
        if State.mode == "hang":
            State.faults += 1
            await forever()
        envelope.mail_from = address
        envelope.mail_options.extend(mail_options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):  # noqa: N802
        if State.mode == "defer-rcpt":
            State.faults += 1
            return "451 4.7.1 Greylisted, try again later"
        if State.mode == "reject-rcpt":
            State.faults += 1
            return "550 5.1.1 No such mailbox"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(rcpt_options)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        mode = State.mode
        if mode == "defer-data":
            State.faults += 1
            return "451 4.3.0 Try again later"
        if mode == "hang":
            State.faults += 1
            await forever()
        if mode in ("drop", "keep-and-drop"):
            State.faults += 1
            if mode == "keep-and-drop":
                keep(session, envelope)
            server.abort()
            await forever()
        keep(session, envelope)
        return "250 OK"


class Connection(SMTP):
    """One connection; it acknowledges at once, since a client without TCP_NODELAY would wait 40 ms a mail."""

    live: set["Connection"] = set()
    socket: Any = None

    def connection_made(self, transport):
        if self.socket is None:
            State.connections += 1
            self.socket = transport.get_extra_info("socket")
            self.raw_transport = transport
            Connection.live.add(self)
        self.acknowledge_at_once()
        super().connection_made(transport)

    def data_received(self, data):
        self.acknowledge_at_once()
        super().data_received(data)

    def connection_lost(self, error):
        Connection.live.discard(self)
        super().connection_lost(error)

    def acknowledge_at_once(self):
        # Linux forgets this setting, so it is made again for every piece that arrives.
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        except OSError:
            pass

    def abort(self):
        self.raw_transport.abort()


class Silent(asyncio.Protocol):
    """A connection that is taken and never spoken to."""

    live: set["Silent"] = set()

    def connection_made(self, transport):
        State.connections += 1
        State.faults += 1
        self.transport = transport
        Silent.live.add(self)

    def connection_lost(self, error):
        Silent.live.discard(self)

    def abort(self):
        self.transport.abort()


def tls_context() -> ssl.SSLContext | None:
    if SETTINGS["security"] == "none":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SETTINGS["certificate"], SETTINGS["key"])
    return context


def authenticate(server, session, envelope, mechanism, credentials) -> AuthResult:
    good = (
        isinstance(credentials, LoginPassword)
        and credentials.login == SETTINGS["user"].encode()
        and credentials.password == SETTINGS["password"].encode()
    )
    return AuthResult(success=good, handled=False)


def new_connection() -> asyncio.BaseProtocol:
    if State.mode == "hang":
        return Silent()
    security = SETTINGS["security"]
    with_login = SETTINGS.get("user") is not None
    return Connection(
        Handler(),
        hostname="localhost",
        ident="the stories' mail server",
        loop=asyncio.get_running_loop(),
        enable_SMTPUTF8=SETTINGS["smtputf8"],
        tls_context=tls_context() if security == "starttls" else None,
        require_starttls=security == "starttls",
        auth_required=with_login,
        # aiosmtpd does not see TLS from the first byte, so only STARTTLS can be asked for here.
        auth_require_tls=security == "starttls",
        authenticator=authenticate if with_login else None,
    )


def bound(port: int) -> socket.socket:
    """Bind a loopback port without listening on it: what connects meanwhile is refused."""
    bound_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound_socket.bind(("127.0.0.1", port))
    return bound_socket


async def main() -> None:
    loop = asyncio.get_running_loop()
    os.makedirs(os.path.join(DIRECTORY, "mails"), exist_ok=True)
    # Held to the end, so that nobody takes the port while connections to it are refused.
    holder = bound(0)
    port = holder.getsockname()[1]
    listener: asyncio.Server | None = None

    async def listen() -> None:
        nonlocal listener
        context = tls_context() if SETTINGS["security"] == "tls" else None
        listener = await loop.create_server(new_connection, sock=bound(port), ssl=context)

    async def set_mode(mode: str) -> None:
        nonlocal listener
        State.mode = mode
        if mode == "refuse" and listener is not None:
            listener.close()
            listener = None
            for connection in [*Connection.live, *Silent.live]:
                connection.abort()
        elif mode != "refuse" and listener is None:
            await listen()

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            command = line.decode().strip()
            if command == "counts":
                answer = f"{State.connections} {State.faults}"
            elif command in MODES:
                await set_mode(command)
                answer = "ok"
            else:
                answer = "no such mode"
            writer.write(answer.encode() + b"\n")
            await writer.drain()
        writer.close()

    await listen()
    control_server = await asyncio.start_server(control, "127.0.0.1", 0)
    control_port = control_server.sockets[0].getsockname()[1]
    write_whole(os.path.join(DIRECTORY, "ready.json"), {"port": port, "control": control_port})
    await forever()


asyncio.run(main())
