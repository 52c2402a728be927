"""On PYTHONPATH of the tested ComfyUI: refuses every connection beyond this machine and writes each attempt down."""

import os
import sys

LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", None)  # noqa: S104


def refuse_network(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOCAL:
        with open(os.environ["NVB_NETWORK_LOG"], "a") as log:
            log.write(f"{event} {host}\n")
        raise OSError(f"the tests allow no network: {event} {host}")


sys.addaudithook(refuse_network)
