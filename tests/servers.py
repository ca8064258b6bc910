"""Serves a folder by FTP or SFTP on loopback: `python -m tests.servers ftp FOLDER` prints its port.

The user is winnow, the password secret. Two files beside the folder, FOLDER.halve and FOLDER.refuse, make the server
lose half of the next upload, and refuse to rename onto an existing file.
"""

import asyncio
import os
import sys
import warnings
from pathlib import Path

import asyncssh

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports asyncore, which Python 3.12 no longer has
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.handlers import FTPHandler
    from pyftpdlib.servers import FTPServer

USER, PASSWORD = "winnow", "secret"
FOLDER = Path(sys.argv[-1])
HALVE, REFUSE = FOLDER.with_suffix(".halve"), FOLDER.with_suffix(".refuse")


def _received(file: str) -> None:
    if HALVE.exists() and os.path.getsize(file):
        HALVE.unlink()
        os.truncate(file, os.path.getsize(file) // 2)


class _Ftp(FTPHandler):
    def on_file_received(self, file: str) -> None:
        _received(file)

    def ftp_RNTO(self, path: str) -> str | None:
        if REFUSE.exists() and os.path.exists(path):
            self.respond("550 File exists.")
            return None
        return super().ftp_RNTO(path)


def _ftp() -> None:
    _Ftp.authorizer = DummyAuthorizer()
    _Ftp.authorizer.add_user(USER, PASSWORD, str(FOLDER), perm="elradfmwMT")
    server = FTPServer(("127.0.0.1", 0), _Ftp)
    print(server.address[1], flush=True)
    server.serve_forever()


class _Users(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)


class _Files(asyncssh.SFTPServer):
    def __init__(self, channel: asyncssh.SSHServerChannel[bytes]) -> None:
        super().__init__(channel, chroot=str(FOLDER).encode())

    def close(self, file_obj: object) -> None:
        super().close(file_obj)
        _received(os.fsdecode(file_obj.name))  # type: ignore[attr-defined]  # a file of Python


async def _sftp() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen("127.0.0.1", 0, server_factory=_Users, server_host_keys=[key], sftp_factory=_Files)
    print(server.get_port(), flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    _ftp() if sys.argv[1] == "ftp" else asyncio.run(_sftp())
