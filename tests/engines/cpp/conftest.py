"""The C++ library, or the reason why it cannot be built here."""

import os

import pytest
from cpp_library import missing_packages


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = missing_packages()
    # CI must not skip: .ci/run sets the variable and installs the packages.
    if missing and not os.environ.get("ALEXNET_DEPLOY_CPP_TESTS"):
        pytest.skip(f"the C++ library cannot be built; apt-get install {' '.join(missing)}")
    assert not missing, f"missing: {missing}"
