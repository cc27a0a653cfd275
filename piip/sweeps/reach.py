"""Whether a cluster is there, asked before Ray asks."""

import socket

from ray._private import services
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RpcError

ADDRESS = "RAY_ADDRESS"
PATIENCE_S = 10.0
"""How long a cluster's host may take to answer at all."""


def reach(address: str) -> None:
    """Asks whether a cluster answers, within a minute; Ray itself would ask for a quarter of an hour.

    Args:
        address: As RAY_ADDRESS has it: `host:port`, `ray://host:port` or `auto`.

    Raises:
        ValueError: It is no address.
        ConnectionError: Nobody answers there, or no Ray cluster.
    """
    place = services.get_ray_address_from_environment(address, None) if address == "auto" else address
    given = f"{ADDRESS}={address}" + (f" ({place})" if place != address else "")
    host, _, port = place.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{given} is no address: host:port of a cluster's head, auto, or local for a Ray of one's own")
    advice = f"Start one there (ray start --head), correct {ADDRESS}, or unset it: a Ray of its own then starts here"
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
        if "://" not in place:
            GcsClient(address=place)  # asks for 40 s at most
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {given}: {error.strerror or error}. {advice}") from None
    except RpcError as error:
        raise ConnectionError(f"what listens at {given} does not answer as a Ray cluster: {error}. {advice}") from None
