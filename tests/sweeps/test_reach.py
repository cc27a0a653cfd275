"""RAY_ADDRESS of nobody: said at once, or within the minute that Ray's own client takes."""

import re

import pytest
from ray.exceptions import RpcError
from server import HangingServer, free_port

from piip.sweeps import reach as module
from piip.sweeps.reach import reach


def test_a_port_that_nobody_listens_on_is_said_at_once(monkeypatch):
    monkeypatch.setattr(module, "GcsClient", lambda address: pytest.fail("asked for 40 s"))
    address = f"127.0.0.1:{free_port()}"

    for given in (address, f"ray://{address}"):
        message = (
            f"no Ray cluster answers at RAY_ADDRESS={given}: Connection refused. Start one there (ray start --head)"
        )
        with pytest.raises(ConnectionError, match=re.escape(message)):
            reach(given)


def test_what_a_crashed_head_left_is_named_with_the_address_in_it(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(module.services, "get_ray_address_from_environment", lambda given, folder: address)

    with pytest.raises(ConnectionError, match=re.escape(f"no Ray cluster answers at RAY_ADDRESS=auto ({address}): ")):
        reach("auto")


def test_something_else_that_listens_there_is_no_cluster(monkeypatch):
    def silent(address):
        raise RpcError("Timed out while waiting for GCS to become available.")

    monkeypatch.setattr(module, "GcsClient", silent)
    with (
        HangingServer() as server,
        pytest.raises(ConnectionError, match=r"does not answer as a Ray cluster: Timed out .*unset it"),
    ):
        reach(server.uri.removeprefix("http://"))


@pytest.mark.parametrize("given", ["cluster", "host:", ":6379", "host:99999", "http://host:8265/x"])
def test_what_is_no_address_is_said(given):
    with pytest.raises(
        ValueError, match=re.escape(f"RAY_ADDRESS={given} is no address: host:port of a cluster's head")
    ):
        reach(given)
