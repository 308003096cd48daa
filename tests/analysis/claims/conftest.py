import factories
import pytest

from claims.studies import QUIET
from harness.analysis.analyse import analyse


@pytest.fixture(scope="package")
def quiet(tmp_path_factory):
    return analyse(factories.make_folder(tmp_path_factory.mktemp("quiet"), noise=QUIET))
