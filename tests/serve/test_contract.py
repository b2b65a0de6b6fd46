"""Requests that Schemathesis makes up from the server's own description: whatever they hold, nothing breaks."""

from pathlib import Path

import pytest
import schemathesis
from conftest import serving
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from minimind.serve.api import create_app
from minimind.serve.service import Service
from minimind.serve.settings import Settings
from minimind.tokenizer.bpe import Tokenizer

APP = create_app(Service(Settings(model="minimind", rollout_root=Path()), Tokenizer.load("default")))
QUIET = ("/pause_generation", "/release_memory_occupation", "/init_weights_update_group")
"""After these a server rightly answers nothing; the last waits for a trainer."""
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (result.ok() for result in schemathesis.openapi.from_dict(APP.openapi()).get_all_operations())
    if operation.path not in QUIET
}
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
FEW = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def base(model, tokenizer, tmp_path_factory):
    with serving(model, tokenizer, max_tokens=3, rollout_root=tmp_path_factory.mktemp("root")) as (url, _):
        yield url


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_breaks_the_server(name, base):
    @FEW
    @given(case=OPERATIONS[name].as_strategy())
    def valid(case):
        case.validate_response(case.call(base_url=base, timeout=20), checks=CHECKS)

    @FEW
    @given(case=OPERATIONS[name].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def invalid(case):
        case.validate_response(case.call(base_url=base, timeout=20), checks=CHECKS)

    valid()
    if OPERATIONS[name].body:
        invalid()
