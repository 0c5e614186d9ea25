"""Updates the TCU as a tester in a workshop does, with udsoncan over doipclient, and prints what came of each step as JSON.

usage: workshop.py PORT LOGICAL_ADDRESS CERTIFICATE KEY STEP...

Steps: authenticate, program (the session), download=FILE (34, 36 and 37), verify, restart, roll-back, status, version.
CERTIFICATE is PEM or DER; KEY is PEM, and signs by the openssl program.
"""

import json
import os
import pathlib
import ssl
import subprocess
import sys
import tempfile

from did import Text
from doipclient import DoIPClient
from doipclient.connectors import DoIPClientUDSConnector
from udsoncan import MemoryLocation
from udsoncan.client import Client
from udsoncan.configs import default_client_config
from udsoncan.exceptions import NegativeResponseException

STATUS, VERSION = 0xF1E0, 0xF189
CHECK_PROGRAMMING_DEPENDENCIES, ROLL_BACK = 0xFF01, 0x0210
PROGRAMMING, HARD_RESET = 2, 1


def der(path):
    data = pathlib.Path(path).read_bytes()
    return ssl.PEM_cert_to_DER_cert(data.decode()) if data.startswith(b"-----") else data


def sign(key, message):
    with tempfile.NamedTemporaryFile() as file:
        file.write(message)
        file.flush()
        command = ["openssl", "dgst", "-sha256", "-sign", key, file.name]
        return subprocess.run(command, check=True, capture_output=True).stdout


def authenticate(client, certificate, key):
    shown = client.verify_certificate_unidirectional(communication_configuration=0, certificate_client=der(certificate))
    proof = sign(key, shown.service_data.challenge_server)
    proved = client.proof_of_ownership(proof_of_ownership_client=proof)
    return proved.service_data.return_value


def download(client, file):
    data = pathlib.Path(file).read_bytes()
    where = MemoryLocation(address=0, memorysize=len(data), address_format=32, memorysize_format=64)
    longest = client.request_download(where).service_data.max_length - 2
    for number, start in enumerate(range(0, len(data), longest), 1):
        client.transfer_data(number % 256, data[start : start + longest])
    client.request_transfer_exit()
    return len(data)


def routine(client, identifier):
    return client.start_routine(identifier).service_data.routine_status_record[0]


def act(client, step, certificate, key):
    name, _, argument = step.partition("=")
    match name:
        case "authenticate":
            return authenticate(client, certificate, key)
        case "program":
            return client.change_session(PROGRAMMING).service_data.session_echo
        case "download":
            return download(client, argument)
        case "verify":
            return routine(client, CHECK_PROGRAMMING_DEPENDENCIES)
        case "roll-back":
            return routine(client, ROLL_BACK)
        case "restart":
            return client.ecu_reset(HARD_RESET).service_data.reset_type_echo
        case "status":
            return client.read_data_by_identifier_first(STATUS)
        case "version":
            return client.read_data_by_identifier_first(VERSION)
    raise ValueError(step)


def main():
    port, address, certificate, key, *steps = sys.argv[1:]
    connection = DoIPClient("127.0.0.1", int(address), tcp_port=int(port))
    # Our own patience, not the 50 ms that the server tells: the machine under the tests is busy, and an emulated one slow.
    whole = int(os.environ.get("PITSTOP_PATIENCE_SECS", "120"))
    patience = {"request_timeout": whole, "p2_timeout": 10, "p2_star_timeout": whole, "use_server_timing": False}
    config = {**default_client_config, "data_identifiers": {"default": Text}, **patience}
    told, restarted = [], False
    with Client(DoIPClientUDSConnector(connection, close_connection=True), config=config) as client:
        for step in steps:
            name = step.partition("=")[0]
            # ISO 14229-5: after the positive answer to a reset the server closes the connection.
            if restarted:
                connection.reconnect(close_delay=0)
            restarted = False
            try:
                told.append({"step": name, "ok": act(client, step, certificate, key)})
                restarted = name == "restart"
            except NegativeResponseException as refused:
                told.append({"step": name, "service": refused.response.service.request_id(), "nrc": refused.response.code})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
