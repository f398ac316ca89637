"""The OpenAPI document and the service agree: schemathesis makes up requests from one and sends them to the other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from patience import PATIENCE_S
from service_process import ServiceProcess

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        ignored_auth,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

KEY = "a-key-for-this-test-only"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


@pytest.fixture(scope="module")
def service(model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("schema")
    (folder / "key").write_text(KEY)
    flags = ("--context", "96", "--parallel", "2", "--api-key-file", str(folder / "key"))
    with ServiceProcess(model_bundle, folder / "log", *flags) as started:
        yield started
        assert "Traceback" not in started.log.read_text()


PATHS = [
    ("/v1/chat/completions", "POST"), ("/v1/completions", "POST"), ("/v1/models", "GET"), ("/v1/models/{model}", "GET"),
    ("/v1/stats", "GET"), ("/health", "GET"), ("/health/ready", "GET"), ("/metrics", "GET"),
]  # fmt: skip


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(("path", "method"), PATHS)
def test_the_document_tells_the_truth(service: ServiceProcess, path: str, method: str, mode: GenerationMode) -> None:
    with service.client() as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operation = schema[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        pytest.skip("takes nothing that could be wrong")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=60 if operation.body else 5, deadline=None, suppress_health_check=list(HealthCheck))
    @seed(7)
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(
            base_url=service.base, headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS, timeout=PATIENCE_S
        )

    check()


def test_the_document_names_every_path(service: ServiceProcess) -> None:
    with service.client() as client:
        found = {(p, m.upper()) for p, item in client.get("/openapi.json").json()["paths"].items() for m in item}
    assert found == set(PATHS)


def test_every_answer_has_its_place_in_the_document(service: ServiceProcess) -> None:
    with service.client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        document = client.get("/openapi.json").json()
        assert document["security"] == [{"key": []}]
        assert "/v1/chat/completions" in document["paths"]
        assert json.dumps(document).count('"$ref"') > 10
        assert client.get("/v1/models").status_code == 200
    with service.client() as stranger:
        for path in ("/v1/models", "/v1/stats", "/metrics", "/v1/nothing"):
            assert stranger.get(path).status_code == 401
        wrong = stranger.get("/v1/models", headers={"Authorization": f"Bearer {KEY}x"})
        assert wrong.status_code == 401
        assert wrong.headers["WWW-Authenticate"] == "Bearer"
        assert stranger.get("/health").status_code == 200
