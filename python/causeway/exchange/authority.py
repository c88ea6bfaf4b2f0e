"""Who vouches for whom on the exchange: keys that control keeps, and what it signs with them.

One authority of certificates, for TLS of both sides, and the statements that nats-server takes its permissions from.
What is signed is pure; the keys are in one file for this user alone, beside the files that nats-server starts from.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from causeway.exchange import identity, words
from causeway.exchange.identity import Identity, NoIdentity, new_key, write_whole
from causeway.exchange.nats_jwt import Kind, Rights, account_jwt, nkey, operator_jwt, user_jwt
from causeway.model.edge import LOCAL

CERTIFIED_S = 7 * 86_400  # an edge can be without control for so long before it has to be invited again
RENEWED_AFTER_S = 86_400
INVITED_S = 3_600
_OURS_S = 10 * 365 * 86_400  # of the authority, of nats-server, of control: as long as the network lives
_EARLIER_S = 300  # clocks differ
CONTROL = "control"
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Unacceptable(Exception):
    """What is asked for cannot be signed; the message says why."""


class _Keys(msgspec.Struct, frozen=True):
    """PEM, all of them."""

    ca: str
    ca_certificate: str
    operator: str
    account: str
    system: str

    def __repr__(self) -> str:
        return "_Keys(…)"


@dataclass(frozen=True, slots=True)
class Certified:
    """What an edge gets for its key: `public_key` is what nats-server calls it, `serial` what X.509 does."""

    certificate: str
    jwt: str
    public_key: str
    serial: str
    expires_unix_s: int


class Authority:
    """The one of a network whose nats-server is reached at `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        """Take up the keys of the folder, or make them.

        Raises:
            OSError: the folder cannot be used.
            NoIdentity: it holds something else.
        """
        self.folder, self.url = folder, url
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keys = self._taken_up(folder / "authority.json")
        self._ca = _key(self._keys.ca)
        self._ca_certificate = x509.load_pem_x509_certificate(self._keys.ca_certificate.encode())
        self._operator, self._account, self._system = map(
            _key, (self._keys.operator, self._keys.account, self._keys.system)
        )

    @staticmethod
    def _taken_up(path: Path) -> _Keys:
        if path.exists():
            try:
                return msgspec.json.decode(path.read_bytes(), type=_Keys)
            except msgspec.MsgspecError as error:
                raise NoIdentity(
                    f"{path} holds no keys of a network: put back a copy of it, or delete it and invite every edge anew"
                ) from error
        ca, others = new_key(), [new_key()[1] for _ in range(3)]
        certificate = _certificate(ca[0], None, ca[0].public_key(), "causeway", _OURS_S, is_authority=True)
        keys = _Keys(ca[1], _pem(certificate), *others)
        write_whole(path, msgspec.json.encode(keys))
        return keys

    @property
    def fingerprint(self) -> str:
        """Of the network: the same wherever these keys are."""
        return self._ca_certificate.fingerprint(SHA256()).hex()

    # ---- what nats-server starts from ----

    def prepare_server(self, revoked: dict[str, int]) -> Path:
        """Write the configuration of nats-server with all it names, and say where it is."""
        host, port = urlsplit(self.url).hostname or "", urlsplit(self.url).port or 4222
        certificate = self.folder / "server.crt"
        if not self._is_of(certificate, host):
            key, text = new_key()
            write_whole(self.folder / "server.key", text.encode())
            made = _certificate(self._ca, self._ca_certificate, key.public_key(), host, _OURS_S, host=host)
            write_whole(certificate, _pem(made).encode())
        write_whole(self.folder / "ca.crt", self._keys.ca_certificate.encode())
        path = self.folder / "nats.conf"
        write_whole(path, self._configuration(port, revoked).encode())
        return path

    def _is_of(self, path: Path, host: str) -> bool:
        """Whether there is one of ours for that host."""
        if not path.exists() or not (self.folder / "server.key").exists():
            return False
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
            found.verify_directly_issued_by(self._ca_certificate)
        except Exception:  # whatever it is, a new one is right
            return False
        return found.subject == _name(host)

    def _configuration(self, port: int, revoked: dict[str, int]) -> str:
        now, system = int(time.time()), self._system.public_key()
        preload = {
            nkey(Kind.ACCOUNT, self._account.public_key()): self.account_jwt(revoked),
            nkey(Kind.ACCOUNT, system): account_jwt(self._operator, system, "system", now, has_jetstream=False),
        }

        def quoted(name: str) -> str:
            return msgspec.json.encode(str(self.folder.absolute() / name)).decode()

        return "\n".join(
            [
                "# Written by causeway at each start of control: changes are lost. Start: nats-server -c nats.conf",
                f"port: {port}",
                "max_payload: 8MB",
                f"jetstream {{ store_dir: {quoted('jetstream')} }}",
                f"tls {{ cert_file: {quoted('server.crt')}, key_file: {quoted('server.key')}, "
                f"ca_file: {quoted('ca.crt')}, verify: true, timeout: 5 }}",
                f'operator: "{operator_jwt(self._operator, system, now)}"',
                f"system_account: {nkey(Kind.ACCOUNT, system)}",
                f"resolver: {{ type: full, dir: {quoted('accounts')}, allow_delete: false }}",
                "resolver_preload: {",
                *(f'  {account}: "{said}"' for account, said in preload.items()),
                "}",
                "",
            ]
        )

    def account_jwt(self, revoked: dict[str, int]) -> str:
        """The statement of the account of all edges; `revoked`: their keys, and since when (s since 1970)."""
        account = self._account.public_key()
        return account_jwt(self._operator, account, "causeway", int(time.time()), has_jetstream=True, revoked=revoked)

    # ---- identities ----

    def control(self) -> Identity:
        """A new one for this process, which may do everything and is kept nowhere."""
        return self._own(self._account)

    def system(self) -> Identity:
        """One that may tell nats-server of accounts."""
        return self._own(self._system)

    def _own(self, account: Ed25519PrivateKey) -> Identity:
        key, text = new_key()
        certificate = _certificate(self._ca, self._ca_certificate, key.public_key(), CONTROL, _OURS_S)
        said = user_jwt(account, key.public_key(), CONTROL, Rights(), int(time.time()))
        return Identity(self.url, CONTROL, self._keys.ca_certificate, text, _pem(certificate), said)

    def local(self) -> bytes:
        """What this machine's own edge is to others: see `identity.to_edges`. Made anew at each start, and each day."""
        key, text = new_key()
        certificate = _certificate(self._ca, self._ca_certificate, key.public_key(), LOCAL, CERTIFIED_S, host=LOCAL)
        return identity.to_edges(self._keys.ca_certificate, _pem(certificate), text)

    def invitation(self, number: str, name: str) -> Identity:
        """One that lets in for `INVITED_S`, to ask for a certificate and for nothing else."""
        key, text = new_key()
        certificate = _certificate(self._ca, self._ca_certificate, key.public_key(), f"join-{number}", INVITED_S)
        empty = Identity(self.url, name, self._keys.ca_certificate, text, _pem(certificate), "", number)
        rights = Rights((words.enrol_subject(number),), (f"{empty.inbox}.>",))
        now = int(time.time())
        said = user_jwt(self._account, key.public_key(), f"join-{number}", rights, now, now + INVITED_S)
        return msgspec.structs.replace(empty, jwt=said)

    def certify(self, name: str, request: str) -> Certified:
        """Sign for the edge of that name, whoever the request says it is.

        Raises:
            Unacceptable: it is no request, or not of a key as we want it.
        """
        try:
            asked = x509.load_pem_x509_csr(request.encode())
            key, is_own = asked.public_key(), asked.is_signature_valid
        except Exception as error:  # of a parser of foreign bytes
            raise Unacceptable(f"it is no request for a certificate: {type(error).__name__}") from error
        if not isinstance(key, Ed25519PublicKey) or not is_own:
            raise Unacceptable("the request is not signed with the Ed25519 key that it is for")
        now = int(time.time())
        certificate = _certificate(self._ca, self._ca_certificate, key, name, CERTIFIED_S, host=name)
        said = user_jwt(self._account, key, name, words.rights(name), now, now + CERTIFIED_S)
        return Certified(
            _pem(certificate),
            said,
            nkey(Kind.USER, key),
            f"{certificate.serial_number:x}",
            now + CERTIFIED_S,
        )


def _key(text: str) -> Ed25519PrivateKey:
    key = load_pem_private_key(text.encode(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise NoIdentity("a key of the network is not of Ed25519")
    return key


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _certificate(
    ca: Ed25519PrivateKey,
    ca_certificate: x509.Certificate | None,
    key: Ed25519PublicKey,
    name: str,
    lives_s: int,
    *,
    host: str | None = None,
    is_authority: bool = False,
) -> x509.Certificate:
    """For a server and a client both: edges speak to each other, and know each other by `host`, the edge's name."""
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(ca_certificate.subject if ca_certificate else _name(name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=_EARLIER_S))
        .not_valid_after(now + timedelta(seconds=lives_s))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
    )
    made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)
    if is_authority:
        made = made.add_extension(_SIGNS, critical=True)
    else:
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    if host:
        made = made.add_extension(x509.SubjectAlternativeName([_at(host)]), critical=False)
    return made.sign(ca, None)


def _at(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
