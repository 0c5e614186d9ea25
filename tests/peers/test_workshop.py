"""Authentication (29) of the TCU's diagnostic server, and what it protects, asked by udsoncan over doipclient.

Certificates are made by the openssl program, so nothing here is ours but the server. What an authenticated tester then does to the
TCU needs the other services: tests/end-to-end runs workshop.py for it.
"""

import contextlib
import json
import pathlib
import ssl
import subprocess

import pytest
from doipclient.connectors import DoIPClientUDSConnector
from test_uds_server import DIDS, PITSTOPD, TESTER, VEHICLE, VIN, doip, read
from udsoncan import MemoryLocation
from udsoncan.client import Client
from udsoncan.configs import default_client_config
from udsoncan.exceptions import NegativeResponseException

TESTER_USAGE = "2.25.324544471321131724842183386646308910608"
COMPLETE, CERTIFICATE_VERIFIED, DEAUTHENTICATED, APCE = 0x12, 0x11, 0x10, 0x02
PROGRAMMING = 2


def openssl(*words, data=None):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, input=data).stdout


class Authority:
    def __init__(self, folder, name="Tester CA"):
        self.folder = folder
        folder.mkdir()
        self.key, self.cert = str(folder / "ca.key"), str(folder / "ca.pem")
        self.made = 0
        new_key(self.key)
        usage = "keyUsage=critical,keyCertSign,cRLSign"
        openssl("req", "-x509", "-key", self.key, "-subj", f"/CN={name}", "-days", "30", "-addext", usage, "-out", self.cert)

    def tester(self, usage=TESTER_USAGE, days=3, more="", curve="P-256"):
        """Certificate in DER, and its key's file."""
        self.made += 1
        key, request, extensions = (str(self.folder / f"{self.made}.{kind}") for kind in ("key", "csr", "ext"))
        new_key(key, curve)
        openssl("req", "-new", "-key", key, "-subj", "/CN=Tester 7", "-out", request)
        pathlib.Path(extensions).write_text(f"extendedKeyUsage={usage}\n{more}")
        signer = ["-CA", self.cert, "-CAkey", self.key, "-set_serial", str(self.made)]
        pem = openssl("x509", "-req", "-in", request, *signer, "-days", str(days), "-extfile", extensions)
        return ssl.PEM_cert_to_DER_cert(pem.decode()), key


def new_key(path, curve="P-256"):
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", path)


def sign(key, message):
    return openssl("dgst", "-sha256", "-sign", key, data=message)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ca")


@pytest.fixture
def ready(tmp_path, authority):
    vehicle = tmp_path / "vehicle.toml"
    vehicle.write_text(VEHICLE)
    command = [PITSTOPD, "uds-server", "--listen", "127.0.0.1:0", "--vehicle", str(vehicle), "--testers", authority.cert]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield json.loads(server.stdout.readline())
    server.terminate()
    assert server.wait(10) == 0


@contextlib.contextmanager
def connect(ready, source=TESTER):
    patience = {"request_timeout": 10, "p2_timeout": 10, "use_server_timing": False}
    config = {**default_client_config, "data_identifiers": DIDS, **patience}
    with Client(DoIPClientUDSConnector(doip(ready, source), close_connection=True), config=config) as client:
        yield client


def show(client, certificate):
    answer = client.verify_certificate_unidirectional(communication_configuration=0, certificate_client=certificate)
    assert answer.service_data.return_value == CERTIFICATE_VERIFIED
    return answer.service_data.challenge_server


def prove(client, proof):
    return client.proof_of_ownership(proof_of_ownership_client=proof).service_data.return_value


def authenticate(client, certificate, key):
    return prove(client, sign(key, show(client, certificate)))


def code(ask, *arguments, **named):
    with pytest.raises(NegativeResponseException) as refused:
        ask(*arguments, **named)
    return refused.value.response.code


def download(client, size=1000):
    return client.request_download(MemoryLocation(0, size, address_format=32, memorysize_format=64))


def test_a_certificate_and_its_keys_signature_authenticate(ready, authority):
    with connect(ready) as client:
        assert client.authentication_configuration().service_data.return_value == APCE
        client.change_session(PROGRAMMING)
        assert code(download, client) == 0x34
        challenge = show(client, authority.tester()[0])
        assert len(challenge) == 49 and challenge[32:].decode() == VIN
        assert authenticate(client, *authority.tester()) == COMPLETE
        # Alone the server has nothing to update.
        assert code(download, client) == 0x22
        assert client.deauthenticate().service_data.return_value == DEAUTHENTICATED
        assert code(download, client) == 0x34


def test_a_certificate_is_refused_by_the_standards_code(ready, authority, tmp_path):
    spoilt = bytearray(authority.tester()[0])
    spoilt[-1] ^= 1
    cases = [
        (authority.tester(days=-1)[0], 0x50),
        (bytes(spoilt), 0x51),
        (Authority(tmp_path / "other", "Other CA").tester()[0], 0x52),
        (authority.tester(usage="clientAuth")[0], 0x53),
        (b"no certificate", 0x54),
        (authority.tester(curve="P-384")[0], 0x55),
        (authority.tester(more="subjectAltName=URI:urn:vin:WP0ZZZ99ZTS392125")[0], 0x56),
    ]
    good = authority.tester(more=f"subjectAltName=URI:urn:vin:{VIN}")
    with connect(ready) as client:
        for certificate, expected in cases:
            assert code(show, client, certificate) == expected, hex(expected)
            assert authenticate(client, *good) == COMPLETE


def test_a_forger_of_the_authoritys_name_is_refused(ready, tmp_path):
    with connect(ready) as client:
        # Another key under the same name: the chain does not hold, whichever of its links is named.
        assert code(show, client, Authority(tmp_path / "forger").tester()[0]) in (0x51, 0x52)


def test_a_proof_is_good_once_for_its_own_challenge_and_connection(ready, authority):
    certificate, key = authority.tester()
    with connect(ready) as client, connect(ready, TESTER + 1) as thief:
        assert code(prove, client, b"x" * 70) == 0x24
        challenge = show(client, certificate)
        proof = sign(key, challenge)
        assert code(prove, thief, proof) == 0x24
        thief.deauthenticate()
        assert code(prove, client, b"x" * 70) == 0x58, "what the thief did took nothing away"
        assert code(prove, client, proof) == 0x24, "used up"
        show(client, certificate)
        assert code(prove, client, proof) == 0x58, "that of an earlier challenge"
        challenge = show(client, certificate)
        assert code(prove, client, sign(authority.tester()[1], challenge)) == 0x58
        challenge = show(client, certificate)
        proof = sign(key, challenge)
        assert prove(client, proof) == COMPLETE
        assert code(prove, client, proof) == 0x24, "replayed"
        # What one tester may do no other may.
        client.change_session(PROGRAMMING)
        assert code(download, thief) == 0x34
        assert code(thief.change_session, 1) == 0x21
        assert read(thief, 0xF190) == VIN


def test_one_testers_failures_do_not_close_it_for_another(ready, authority):
    with connect(ready) as client, connect(ready, TESTER + 1) as stranger:
        for _ in range(5):
            assert code(show, stranger, b"no certificate") == 0x54
        assert code(show, stranger, authority.tester()[0]) == 0x22
        assert authenticate(client, *authority.tester()) == COMPLETE


def test_authentication_ends_with_the_session_and_the_connection(ready, authority):
    good = authority.tester()
    with connect(ready) as client:
        client.change_session(PROGRAMMING)
        authenticate(client, *good)
        client.change_session(1)
        client.change_session(PROGRAMMING)
        assert code(download, client) == 0x34
        authenticate(client, *good)
        assert code(download, client) == 0x22
    with connect(ready) as client:
        client.change_session(PROGRAMMING)
        assert code(download, client) == 0x34


def test_both_ways_and_secured_transmission_are_not_served(ready, authority):
    certificate, _ = authority.tester()
    with connect(ready) as client:
        both = {"certificate_client": certificate, "challenge_client": b"c" * 32}
        assert code(client.verify_certificate_bidirectional, 0, **both) == 0x12
        assert code(client.verify_certificate_unidirectional, 1, certificate_client=certificate) == 0x5C
