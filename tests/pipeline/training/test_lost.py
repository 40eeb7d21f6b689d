"""Why a run has lost the connection to another process."""

import pytest

from pipeline.training.lost import is_lost_connection, loopback_address

#: What gloo says if the name of another machine resolves to 127.0.1.1 there, as Debian configures it.
REFUSED = (
    "Gloo connectFullMesh failed with [/third_party/gloo/gloo/transport/tcp/pair.cc:152] timed out "
    "connecting: SO_ERROR: Connection refused, remote=[127.0.1.1]:5515$0"
)


@pytest.mark.parametrize(("n_here", "address"), [("1", "127.0.1.1"), ("2", None)])
def test_a_machine_whose_name_is_its_loopback_address_cannot_be_reached_by_others(
    n_here: str, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": n_here}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert is_lost_connection(RuntimeError(REFUSED))
    assert loopback_address(REFUSED) == address
    assert loopback_address(REFUSED.replace("127.0.1.1", "10.0.0.2")) is None
