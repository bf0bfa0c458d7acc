"""A user and a machine with names to look for, and a home: what must not leave."""

import socket

import pytest

HOST, USER = "node-17.cluster", "quillon7"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Gives the home."""
    home = tmp_path / "home" / USER
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", USER)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    return home
