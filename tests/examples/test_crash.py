"""examples/crash.py: G22, a server that is killed sends each mail after all."""

from __future__ import annotations

from tests.examples.programs import example


def test_a_killed_server_sends_each_mail_after_all_g22() -> None:
    assert example("crash.py") == [
        "20 orders were answered, then the server was killed",
        "fewer mails were sent: True",
        "the server runs again: 20 orders have their mail",
        "each task has one message_id: True",
    ]
