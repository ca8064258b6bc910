"""One finished job of hostile captions for every test of its page, made once."""

from typing import Any

import pytest

from tests.jobs.report.pages import done, hostile_job


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The job, with its counts under `counts`; tests leave its pool and its store as they were."""
    values = hostile_job(tmp_path_factory.mktemp("hostile"))
    return {**values, "counts": done(values)}
