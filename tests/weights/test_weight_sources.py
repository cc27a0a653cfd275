"""Public files by name, the hub's cache, and what is said without a network; quickly."""

import http.server
import threading
import time

import pytest
import torch
from huggingface_hub import constants

from piip import home
from piip.weights import sources
from piip.weights.read import WeightsError
from piip.weights.sources import find, hub_file, pretrained_folder, read_weights

NAME = "deit_3_small_224_21k.pth"
REPOSITORY = "timm/deit3_small_patch16_224.fb_in22k_ft_in1k"


@pytest.fixture
def server(tmp_path):
    """A host that publishes tmp_path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{host.server_port}"
        host.shutdown()


@pytest.fixture
def nobody():
    """A port of this machine where nobody listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as host:
        port = host.server_port
    return f"http://127.0.0.1:{port}"


def test_a_public_file_is_downloaded_once(server, tmp_path, monkeypatch):
    torch.save({"model": {"a": torch.ones(3)}}, tmp_path / NAME)
    monkeypatch.setitem(sources.PUBLIC, NAME, f"{server}/{NAME}")

    assert read_weights(NAME).tensors["a"].tolist() == [1, 1, 1]

    monkeypatch.setitem(sources.PUBLIC, NAME, "http://127.0.0.1:1/gone")
    assert find(NAME) == home.data_root() / "pretrained" / NAME
    assert [f.name for f in pretrained_folder().iterdir()] == [NAME]


def test_without_a_network_the_message_says_what_to_put_where(nobody, monkeypatch):
    monkeypatch.setitem(sources.PUBLIC, NAME, f"{nobody}/{NAME}")

    with pytest.raises(WeightsError) as refused:
        find(NAME)

    assert "Connection refused" in str(refused.value)
    assert f"get {nobody}/{NAME} on another machine and put it in {pretrained_folder()}" in str(refused.value)


def test_a_download_cut_off_leaves_nothing(monkeypatch):
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        monkeypatch.setitem(sources.PUBLIC, NAME, f"http://127.0.0.1:{host.server_port}/{NAME}")
        with pytest.raises(WeightsError, match="cut off at 10 of 1000 bytes"):
            find(NAME)
        host.shutdown()

    assert list(pretrained_folder().iterdir()) == []


def test_every_public_name_is_a_file_of_weights():
    assert len(sources.PUBLIC) == 46
    for name, url in sources.PUBLIC.items():
        assert name.endswith((".pth", ".npz", ".pkl"))
        assert url.startswith("https://")


class TestHub:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch, nobody):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "ENDPOINT", nobody)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        return tmp_path / "hub"

    def test_an_unreachable_hub_is_one_line_and_not_asked_again(self, nobody, monkeypatch):
        pauses = []
        monkeypatch.setattr(time, "sleep", pauses.append)  # before another attempt

        with pytest.raises(WeightsError, match="Connection refused") as refused:
            hub_file(REPOSITORY, otherwise="name a file")

        assert not pauses
        assert nobody in str(refused.value)
        assert "or name a file" in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_a_hub_that_does_not_answer_is_given_up(self, monkeypatch):
        import socket

        monkeypatch.setattr(sources, "PATIENCE_S", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
            with pytest.raises(WeightsError, match="timed out"):
                hub_file(REPOSITORY, otherwise="name a file")

    def test_what_is_in_the_cache_needs_no_network(self, cache):
        snapshot = cache / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(b"weights")
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("abc")

        assert hub_file(REPOSITORY, otherwise="name a file") == snapshot / "model.safetensors"
