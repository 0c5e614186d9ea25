"""Reads the TCU's identification as a tester in a workshop does, and prints it as one JSON object.

usage: read_tcu.py PORT LOGICAL_ADDRESS
"""

import json
import sys

from did import Raw
from doipclient import DoIPClient
from doipclient.connectors import DoIPClientUDSConnector
from udsoncan.client import Client
from udsoncan.configs import default_client_config

TEXTS = (0xF188, 0xF189, 0xF18C, 0xF190, 0xF1EF)
ACTIVE_SESSION = 0xF186
DEFAULT, EXTENDED = 1, 3


def main():
    port, address = int(sys.argv[1]), int(sys.argv[2])
    connection = DoIPClient("127.0.0.1", address, tcp_port=port)
    config = {**default_client_config, "data_identifiers": {"default": Raw}, "request_timeout": 10}
    with Client(DoIPClientUDSConnector(connection, close_connection=True), config=config) as client:

        def read(did):
            return client.read_data_by_identifier_first(did)

        found = {f"{did:04X}": read(did).decode() for did in TEXTS}
        client.tester_present()
        found["session"] = read(ACTIVE_SESSION)[0]
        client.change_session(EXTENDED)
        found["extended"] = read(ACTIVE_SESSION)[0]
        client.change_session(DEFAULT)
        found["session_again"] = read(ACTIVE_SESSION)[0]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
