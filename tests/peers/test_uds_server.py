"""The TCU's diagnostic server, asked by a client that is not ours: udsoncan over doipclient.

Starts `pitstopd uds-server` alone on a free port of the loopback interface. PITSTOP_TARGET names the folder with the
program, target/debug without it.
"""

import json
import os
import pathlib
import socket
import subprocess

import pytest
from did import Raw
from doipclient import DoIPClient
from doipclient.connectors import DoIPClientUDSConnector
from doipclient.messages import RoutingActivationResponse
from udsoncan import AsciiCodec, exceptions, services
from udsoncan.client import Client
from udsoncan.configs import default_client_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
PITSTOPD = pathlib.Path(os.environ.get("PITSTOP_TARGET", ROOT / "target/debug")) / "pitstopd"
TESTER = 0x0E80

VIN = "WP0ZZZ99ZTS392124"
SERIAL = "TCU-2026-000001"
NUMBER = "TCU-SW-001"
VERSION = "1.4.0"
HARDWARE = "tcu-a1"
RXSWIN = "R155 PITSTOP 0001;R156 PITSTOP 0001"

VEHICLE = f"""
vin = "{VIN}"
[tcu]
hardware = "{HARDWARE}"
serial = "{SERIAL}"
rxswin = {json.dumps(RXSWIN.split(";"))}
"""


DIDS = {
    0xF190: AsciiCodec(len(VIN)),
    0xF18C: AsciiCodec(len(SERIAL)),
    0xF188: AsciiCodec(len(NUMBER)),
    0xF189: AsciiCodec(len(VERSION)),
    0xF191: AsciiCodec(len(HARDWARE)),
    0xF1EF: AsciiCodec(len(RXSWIN)),
    "default": Raw,
}


def start(tmp_path, vehicle):
    path = tmp_path / "vehicle.toml"
    path.write_text(vehicle)
    command = [PITSTOPD, "uds-server", "--listen", "127.0.0.1:0", "--vehicle", str(path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return server, json.loads(server.stdout.readline())


@pytest.fixture
def ready(tmp_path):
    software = f'software_number = "{NUMBER}"\nversion = "{VERSION}"\n'
    server, ready = start(tmp_path, VEHICLE + software)
    yield ready
    server.terminate()
    assert server.wait(10) == 0


def doip(ready, source=TESTER, **kwargs):
    return DoIPClient(
        ready["address"],
        ready["logical_address"],
        tcp_port=ready["port"],
        udp_port=ready["port"],
        client_logical_address=source,
        **kwargs,
    )


def uds(client):
    config = {**default_client_config, "data_identifiers": DIDS, "request_timeout": 5}
    return Client(DoIPClientUDSConnector(client), config=config)


def read(client, did):
    return client.read_data_by_identifier(did).service_data.values[did]


def test_identification_and_versions(ready):
    with uds(doip(ready)) as client:
        assert read(client, 0xF190) == VIN
        assert read(client, 0xF18C) == SERIAL
        assert read(client, 0xF188) == NUMBER
        assert read(client, 0xF189) == VERSION
        assert read(client, 0xF191) == HARDWARE
        assert read(client, 0xF1EF) == RXSWIN
        assert read(client, 0xF186) == b"\x01"
        both = client.read_data_by_identifier([0xF188, 0xF189]).service_data.values
        assert (both[0xF188], both[0xF189]) == (NUMBER, VERSION)


def test_sessions_and_tester_present(ready):
    with uds(doip(ready)) as client:
        answer = client.change_session(services.DiagnosticSessionControl.Session.extendedDiagnosticSession)
        timing = answer.service_data
        assert (timing.p2_server_max, timing.p2_star_server_max) == (0.05, 5.0)
        client.tester_present()
        with client.suppress_positive_response():
            client.tester_present()
        assert read(client, 0xF186) == b"\x03"
        client.change_session(services.DiagnosticSessionControl.Session.defaultSession)
        assert read(client, 0xF186) == b"\x01"


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda c: c.write_data_by_identifier(0xF190, VIN), 0x31),
        (lambda c: c.read_data_by_identifier(0x0102), 0x31),
        (lambda c: c.change_session(4), 0x12),
        (lambda c: c.ecu_reset(1), 0x34),
        (lambda c: c.start_routine(0xFF01), 0x7F),
        (lambda c: c.request_seed(1), 0x11),
        (lambda c: c.transfer_data(1, b"x"), 0x7F),
    ],
)
def test_what_is_not_served_is_refused_by_the_standards_code(ready, ask, code):
    with uds(doip(ready)) as client:
        with pytest.raises(exceptions.NegativeResponseException) as refused:
            ask(client)
        assert refused.value.response.code == code
        assert read(client, 0xF190) == VIN


def test_versions_are_not_made_up_when_nobody_says_them(tmp_path):
    server, ready = start(tmp_path, VEHICLE)
    try:
        with uds(doip(ready)) as client:
            with pytest.raises(exceptions.NegativeResponseException) as refused:
                client.read_data_by_identifier(0xF189)
            assert refused.value.response.code == 0x22
            assert read(client, 0xF190) == VIN
    finally:
        server.terminate()
        server.wait(10)


@pytest.mark.parametrize("version", [0x02, 0x03])
@pytest.mark.parametrize("activation", [0x00, 0x01])
def test_both_protocol_versions_and_activation_types(ready, version, activation):
    with uds(doip(ready, protocol_version=version, activation_type=activation)) as client:
        assert read(client, 0xF190) == VIN


def test_entity_status(ready):
    client = doip(ready)
    status = client.request_entity_status()
    assert (status.node_type, status.max_concurrent_sockets) == (1, 4)
    client.close()


def test_routing_activation_of_an_address_that_is_no_tester_is_denied(ready):
    with socket.create_connection((ready["address"], ready["port"]), 5) as raw:
        raw.sendall(bytes.fromhex("02fd000500000007") + (0x1234).to_bytes(2) + bytes(5))
        answer = raw.recv(64)
        assert answer[12] == RoutingActivationResponse.ResponseCode.DeniedUnknownSourceAddress


def test_vehicle_identification(ready):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.settimeout(5)
        raw.sendto(bytes.fromhex("ff00000100000000"), (ready["address"], ready["port"]))
        answer = raw.recv(128)
        assert answer[2:4] == b"\x00\x04"
        assert answer[8:25].decode() == VIN
        assert int.from_bytes(answer[25:27]) == ready["logical_address"]
