from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from hemaflow.flows.server.temporary_server import prefect_server
from hemaflow.infra.errors import ConfigError


def test_a_server_that_does_not_answer_is_a_mistake_and_no_stack_trace() -> None:
    url = "http://127.0.0.1:1/api"  # a port that nobody listens on
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(ConfigError, match=rf"does not answer\.\n.*\nWhere: {url}\n.*unset PREFECT_API_URL"),
        prefect_server(),
    ):
        pytest.fail("It answers.")
