"""Keys, certificates and statements: what is made, kept, taken up again and refused."""

import base64
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from causeway.exchange import identity, nats_jwt
from causeway.exchange.authority import CERTIFIED_S, Authority, Unacceptable
from causeway.exchange.loans import Loans
from causeway.exchange.nats_jwt import Kind, nkey

URL = "tls://control.example.net:4222"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, URL)


def claims(jwt: str) -> dict[str, object]:
    part = jwt.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def request(name: str = "fra-1") -> str:
    return identity.request(Ed25519PrivateKey.generate(), name)


@pytest.mark.parametrize(("kind", "first"), [(Kind.OPERATOR, "O"), (Kind.ACCOUNT, "A"), (Kind.USER, "U")])
def test_a_public_key_says_by_its_first_letter_what_it_stands_for(kind: Kind, first: str) -> None:
    text = nkey(kind, Ed25519PrivateKey.generate().public_key())
    assert text[0] == first and len(text) == 56


def test_a_public_key_as_the_library_of_nats_writes_it() -> None:
    """An nkey of the documentation of NATS: its checksum is not ours."""
    text = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
    raw = base64.b32decode(text)
    assert nkey(Kind.USER, Ed25519PublicKey.from_public_bytes(raw[1:33])) == text


def test_the_same_folder_is_the_same_network(authority: Authority, tmp_path: Path) -> None:
    again = Authority(tmp_path, URL)
    assert again.control().ca == authority.control().ca
    assert claims(again.control().jwt)["iss"] == claims(authority.control().jwt)["iss"]
    assert claims(Authority(tmp_path / "other", URL).control().jwt)["iss"] != claims(authority.control().jwt)["iss"]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe"])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "authority.json").write_bytes(content)
    with pytest.raises(identity.NoIdentity, match="put back a copy"):
        Authority(tmp_path, URL)
    assert (tmp_path / "authority.json").read_bytes() == content, "nothing is overwritten"


def test_the_certificate_of_nats_server_is_made_anew_for_another_host_alone(
    authority: Authority, tmp_path: Path
) -> None:
    authority.prepare_server({})
    first = (tmp_path / "server.crt").read_bytes()
    authority.prepare_server({})
    assert (tmp_path / "server.crt").read_bytes() == first
    (tmp_path / "server.crt").write_bytes(b"damaged")
    authority.prepare_server({})
    assert (tmp_path / "server.crt").read_bytes() not in (first, b"damaged")
    Authority(tmp_path, "tls://198.18.0.1:4333").prepare_server({})
    made = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["198.18.0.1"]
    assert "port: 4333" in (tmp_path / "nats.conf").read_text()


def test_an_edge_is_what_control_says_and_not_what_its_request_does(authority: Authority) -> None:
    made = authority.certify("fra-1", request("control"))
    certificate = x509.load_pem_x509_certificate(made.certificate.encode())
    assert certificate.subject.rfc4514_string() == "CN=fra-1"
    told = claims(made.jwt)
    assert (told["name"], told["sub"]) == ("fra-1", made.public_key)
    assert int(str(told["exp"])) - int(str(told["iat"])) == CERTIFIED_S == 7 * 86_400
    [lives] = [certificate.not_valid_after_utc - certificate.not_valid_before_utc]
    assert CERTIFIED_S <= lives.total_seconds() <= CERTIFIED_S + 600
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def of_another_kind() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    from cryptography.hazmat.primitives import hashes

    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return built.public_bytes(Encoding.PEM).decode()


def forged() -> str:
    """Signed with another key than the one it is for."""
    good = x509.load_pem_x509_csr(request().encode()).public_bytes(Encoding.DER)
    text = base64.encodebytes(good[:-1] + bytes([good[-1] ^ 1])).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize("asked", ["", "x", "-----BEGIN CERTIFICATE REQUEST-----", of_another_kind(), forged()])
def test_a_request_that_proves_nothing_is_refused(authority: Authority, asked: str) -> None:
    with pytest.raises(Unacceptable):
        authority.certify("fra-1", asked)


def test_every_beginning_of_a_request_is_refused_or_the_whole_of_it(authority: Authority) -> None:
    whole = request()
    for length in range(len(whole) - 1):  # without its last line break it is whole
        with pytest.raises(Unacceptable):
            authority.certify("fra-1", whole[:length])


def test_a_key_is_not_shown(authority: Authority) -> None:
    invited = authority.invitation("1" * 32, "fra-1")
    assert repr(invited) == f"Identity(fra-1 at {URL})"
    assert "PRIVATE" not in repr(authority._keys) + repr(invited)


def test_an_identity_is_read_as_it_was_written_and_no_part_of_it_is(authority: Authority, tmp_path: Path) -> None:
    invited, path = authority.invitation("1" * 32, "fra-1"), tmp_path / "fra-1.join"
    identity.write(path, invited)
    assert identity.read(path) == invited
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(identity.NoIdentity, match="is not what"):
            identity.read(path)


@pytest.mark.parametrize("field", ["ca", "key", "certificate", "jwt"])
def test_an_identity_of_which_a_part_is_another_is_refused(authority: Authority, tmp_path: Path, field: str) -> None:
    path = tmp_path / "fra-1.join"
    identity.write(path, authority.invitation("1" * 32, "fra-1"))
    told = json.loads(path.read_text()) | {field: "s3cret"}
    path.write_text(json.dumps(told))
    with pytest.raises(identity.NoIdentity) as refused:
        identity.read(path)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("jwt", ["", "a.b", "a.b.c", "a.e30.c", "a.bnVsbA.c", "a.eyJpYXQiOiAieCJ9.c", "é.é.é"])
def test_the_life_of_what_is_no_statement_is_a_value_error(jwt: str) -> None:
    with pytest.raises(ValueError):
        nats_jwt.life_unix_s(jwt)


def test_a_list_is_lent_while_somebody_waits_for_it() -> None:
    loans = Loans()
    with loans.lent(b"content") as first, loans.lent(b"content") as second:
        assert first == second
        assert [loans.chunk(first, offset, 4) for offset in (0, 4, 7, -1)] == [b"cont", b"ent", b"", b""]
    assert loans.chunk(first, 0, 4) == b""
    with loans.lent(b"content"):
        with loans.lent(b"content"):
            pass
        assert loans.chunk(first, 0, 4) == b"cont", "the other one still is"
