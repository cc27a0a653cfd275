"""Addresses of MLflow that can never work, or do not answer."""

import os
import re
import socket
import sys

import pytest
from server import free_port

from piip.home import sqlite_uri
from piip.tracking import address
from piip.tracking.address import AddressError
from piip.tracking.connection import UnreachableError
from piip.tracking.store import Store


def test_a_driver_that_is_missing_is_named_with_what_installs_it():
    message = (
        "MLflow at postgresql+psycopg2cffi://***@host/db needs the database driver psycopg2cffi, which is not installed: "
        "pip install psycopg2cffi. Or give the address of an MLflow server"
    )

    with pytest.raises(AddressError, match=re.escape(message)):
        Store("postgresql+psycopg2cffi://u:secret@host/db").find_runs("tests")


def test_the_package_of_a_driver_may_have_another_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://host/db")

    with pytest.raises(AddressError, match=r"^MLFLOW_TRACKING_URI=postgresql.* pip install psycopg2-binary\."):
        Store().find_runs("tests")


@pytest.mark.parametrize("uri", ["mysql+nothing://host/db", "postgresql:host"])
def test_what_is_no_address_of_a_database_is_said(uri):
    with pytest.raises(AddressError, match="is no address of a database"):
        address.check(uri)


@pytest.mark.parametrize("uri", ["http://mlflow:5000", "https://u:p@mlflow", "databricks", "plugin://somewhere"])
def test_what_mlflow_alone_knows_is_left_to_it(uri):
    address.check(uri)


def test_a_file_that_is_no_database_is_said_before_mlflow_tries_for_minutes(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, and long enough to be read as one" * 20)

    with pytest.raises(AddressError, match=r"mlflow\.db is no database of MLflow's: file is not a database"):
        Store(sqlite_uri(tmp_path / "mlflow.db")).find_runs("tests")


def test_a_folder_in_its_place_is_said(tmp_path):
    (tmp_path / "mlflow.db").mkdir()

    with pytest.raises(AddressError, match="cannot be opened: unable to open database file"):
        Store(sqlite_uri(tmp_path / "mlflow.db")).find_runs("tests")


def test_a_databases_host_that_does_not_answer_is_not_waited_for_by_mlflow(monkeypatch):
    asked = []
    monkeypatch.setattr(address, "check", lambda uri: None)
    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: asked.append(a) or connect(*a, **k))
    port = free_port()

    with pytest.raises(UnreachableError, match=r"postgresql://\*\*\*@127\.0\.0\.1:\d+/db: connection refused"):
        Store(f"postgresql://u:secret@127.0.0.1:{port}/db").find_runs("tests")
    assert asked == [(("127.0.0.1", port), address.PATIENCE_S)]


PROXY = "http://user:secret@proxy.example:3128"


def test_what_is_on_this_machine_is_asked_without_a_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, PROXY)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("no_proxy", "intranet")

    for host in ("127.0.0.1", "localhost"):
        for uri in (f"http://{host}:5000", f"https://{host}"):
            address.keep_off_proxies(uri)
            assert address.proxy_of(uri) == ""
    address.keep_off_proxies("http://mlflow.example:5000")
    assert os.environ["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert address.proxy_of("http://mlflow.example:5000") == "http://***@proxy.example:3128"
    assert address.proxy_of("sqlite:///mlflow.db") == ""


def test_a_proxy_is_named_where_nobody_answers(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")

    with pytest.raises(
        UnreachableError, match=r"connection refused \(asked through the proxy http://127\S+; what NO_PROXY names"
    ):
        Store("http://mlflow.example:5000").find_runs("tests")
