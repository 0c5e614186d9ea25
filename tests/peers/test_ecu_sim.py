"""The simulated vehicle, asked by testers that are not ours: udsoncan over doipclient, and over can-isotp and python-can.

What they agree on with the simulated ECUs is what our own client may rely on. PITSTOP_TARGET names the folder with the
program, target/debug without it.
"""

import json
import os
import pathlib
import socket
import struct
import subprocess
import time
import zlib

import can
import isotp
import pytest
from did import Text
from doipclient import DoIPClient
from doipclient.connectors import DoIPClientUDSConnector
from udsoncan import MemoryLocation, exceptions
from udsoncan.client import Client
from udsoncan.configs import default_client_config
from udsoncan.connections import PythonIsoTpConnection

ROOT = pathlib.Path(__file__).resolve().parents[2]
ECU_SIM = pathlib.Path(os.environ.get("PITSTOP_TARGET", ROOT / "target/debug")) / "ecu-sim"
GATEWAY, TPMS = 0x1001, 0x1010
FIRMWARE, IDENTITY = 0x08010000, 0x08008000
ERASE, CHECK, DEPENDENCIES, ACTIVATE, COMMIT, ROLL_BACK = 0xFF00, 0x0202, 0xFF01, 0xF010, 0xF011, 0xF012


CONFIG = {
    **default_client_config,
    "data_identifiers": {0xF15A: Text, "default": Text},
    # The CAN stack queues a request and sends it later, so the server's own P2 would be over before the last frame is.
    "use_server_timing": False,
    "p2_timeout": 5,
    "request_timeout": 30,
}


def image(version):
    return bytes((i * 7 + len(version) + ord(version[0])) >> 2 & 0xFF for i in range(20_000))


def identity(number, version, counter):
    block = b"PSID\x01\0\0\0" + number.encode().ljust(24, b"\0") + version.encode().ljust(24, b"\0")
    block += struct.pack(">I", counter)
    return block + struct.pack(">I", zlib.crc32(block))


@pytest.fixture
def vehicle(tmp_path):
    (tmp_path / "old.bin").write_bytes(image("1.0.0"))
    words = [ECU_SIM, "--vehicle", ROOT / "tests/ecu-sim/vehicles/demo.toml", "--hub", tmp_path / "hub.sock", "--json"]
    words += ["--control", tmp_path / "control.sock", "--socketcand", "127.0.0.1:0", "--bus-speed", "5"]
    for ecu in ("gateway", "bcm", "adas", "tpms"):
        words += ["--flash", f"{ecu}={tmp_path}/old.bin,PS-{ecu},1.0.0,1"]
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(5)


def doip(vehicle, target, **options):
    connection = DoIPClient(vehicle["address"], target, tcp_port=vehicle["port"], **options)
    return Client(DoIPClientUDSConnector(connection, close_connection=True), config=CONFIG)


def bus(vehicle):
    host, port = vehicle["socketcand"].rsplit(":", 1)
    # On a crowded machine python-can may read its last answer and the first frame at once, and refuses both.
    for _ in range(4):
        try:
            return can.Bus(interface="socketcand", host=host, port=int(port), channel="can0")
        except can.CanError as error:
            refused = error
    raise refused


def read(client, did):
    return client.read_data_by_identifier_first(did)


def write_software(client, number, version, sector):
    client.change_session(3)
    client.change_session(2)
    client.write_data_by_identifier(0xF15A, "peer")
    for address, data in ((FIRMWARE, image(version)), (IDENTITY, identity(number, version, 2))):
        size = (len(data) + sector - 1) // sector * sector
        assert status(client.start_routine(ERASE, struct.pack(">BII", 0x44, address, size))) == b"\0"
        opened = client.request_download(MemoryLocation(address, len(data), 32, 32))
        block = opened.service_data.max_length - 2
        for counter, start in enumerate(range(0, len(data), block), 1):
            client.transfer_data(counter & 0xFF, data[start : start + block])
        client.request_transfer_exit()
        check = struct.pack(">III", address, len(data), zlib.crc32(data))
        assert status(client.start_routine(CHECK, check)) == b"\0"
    assert status(client.start_routine(DEPENDENCIES)) == b"\0"


def status(response):
    return response.service_data.routine_status_record


@pytest.mark.parametrize("version, activation", [(2, 0), (3, 1)])
@pytest.mark.parametrize("target, name", [(GATEWAY, "gateway"), (TPMS, "tpms")])
def test_identification_over_doip(vehicle, target, name, version, activation):
    with doip(vehicle, target, protocol_version=version, activation_type=activation) as client:
        assert read(client, 0xF189) == "1.0.0"
        assert read(client, 0xF188) == f"PS-{name}"
        assert read(client, 0xF191) == f"{name}-a1"
        assert read(client, 0xF190) == vehicle["vin"]
        client.tester_present()
        with pytest.raises(exceptions.NegativeResponseException) as refused:
            client.request_download(MemoryLocation(FIRMWARE, 16, 32, 32))
        assert refused.value.response.code in (0x11, 0x7F)


def test_vehicle_identification_over_udp(vehicle):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.sendto(bytes.fromhex("02fd000100000000"), (vehicle["address"], vehicle["port"]))
        answer = udp.recv(100)
    assert answer[:8] == bytes.fromhex("02fd000400000020")
    assert answer[8:25] == vehicle["vin"].encode()
    assert answer[25:27] == GATEWAY.to_bytes(2, "big")


def test_an_ecu_behind_the_gateway_is_flashed(vehicle):
    with doip(vehicle, TPMS) as client:
        write_software(client, "PS-tpms", "2.0.0", 1024)
        client.ecu_reset(1)
        time.sleep(0.5)
        assert read(client, 0xF189) == "2.0.0"


def test_a_dual_bank_gateway_tries_and_leaves_its_new_bank(vehicle):
    with doip(vehicle, GATEWAY) as client:
        write_software(client, "PS-gateway", "2.0.0", 4096)
        assert read(client, 0xF189) == "1.0.0"
        assert status(client.start_routine(ACTIVATE)) == b"\0"
        client.ecu_reset(1)
    time.sleep(0.5)
    with doip(vehicle, GATEWAY) as client:
        assert read(client, 0xF189) == "2.0.0"
        client.change_session(2)
        assert status(client.start_routine(ROLL_BACK)) == b"\0"
        client.ecu_reset(1)
    time.sleep(0.5)
    with doip(vehicle, GATEWAY) as client:
        assert read(client, 0xF189) == "1.0.0"


@pytest.mark.parametrize("block_size, separation", [(0, 0), (8, 0), (3, 1)])
def test_an_ecu_on_can_is_flashed_by_another_iso_tp(vehicle, block_size, separation):
    peer = bus(vehicle)
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, txid=0x7E0, rxid=0x7E8)
    stack = isotp.CanStack(peer, address=address, params={"blocksize": block_size, "stmin": separation})
    with Client(PythonIsoTpConnection(stack), config=CONFIG) as client:
        assert read(client, [0xF189]) == "1.0.0"
        write_software(client, "PS-bcm", "2.0.0", 4096)
        with pytest.raises(exceptions.NegativeResponseException):
            read(client, 0xF189)
        client.ecu_reset(1)
        time.sleep(0.5)
        assert read(client, 0xF189) == "2.0.0"
    peer.shutdown()


def test_signals_are_broadcast(vehicle):
    peer = bus(vehicle)
    seen, end = set(), time.monotonic() + 5
    while seen < {0x120, 0x130, 0x140, 0x300} and time.monotonic() < end:
        frame = peer.recv(1)
        seen.add(frame.arbitration_id if frame else None)
    peer.shutdown()
    assert {0x120, 0x130, 0x140, 0x300} <= seen
