"""G17: the ids of messages."""

from __future__ import annotations

import os
import random
from uuid import UUID

import pytest

from taskphase._drive.identity import new_message_id


def test_a_message_id_is_the_hex_of_a_random_uuid_g17() -> None:
    found = [new_message_id() for _ in range(1000)]
    assert len(set(found)) == 1000
    for each in found:
        number = UUID(hex=each)
        assert (number.hex, number.version, number.variant) == (each, 4, UUID(int=0x8 << 60).variant)


def test_the_seed_of_the_program_does_not_repeat_message_ids_g17() -> None:
    state = random.getstate()
    try:
        random.seed(0)
        first = new_message_id()
        random.seed(0)
        assert new_message_id() != first
    finally:
        random.setstate(state)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # this process has threads
def test_a_forked_process_has_other_message_ids_g17() -> None:
    new_message_id()  # reads random bytes for the next ones, too
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, new_message_id().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    os.waitpid(pid, 0)
    assert len(theirs) == 32
    assert theirs != new_message_id()
