"""What holds for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    """Return where an endpoint answers."""
    with EmbeddedEndpoint(ServeSettings()) as endpoint:
        yield endpoint.base_url
