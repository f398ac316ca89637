"""The endpoints of the API: read a request, hand it to the serving loop, send the answer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import time
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_runtime.engine.job import Job, JobGroup
from edge_runtime.service.http.bodies import BodyPlace, BodyPlaces
from edge_runtime.service.http.exchange import EventStream, HttpLimits, JobEvents, read_body, whole_answer
from edge_runtime.service.openai.answers import Answer
from edge_runtime.service.openai.api_errors import ApiError
from edge_runtime.service.openai.generation import GenerationRequest
from edge_runtime.service.openai.parser import parse_request
from edge_runtime.service.openai.preparation import Preparation, ReadyRequest
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service

_MAX_PREPARING = 2


class Endpoints:
    """The API over one service.

    Args:
        service: does the work.
        limits: of one exchange.
    """

    def __init__(self, service: Service, limits: HttpLimits) -> None:
        self._service, self._limits = service, limits
        self._created = int(time())
        self._places = BodyPlaces()
        self._preparation = Preparation(service)
        # preparing takes memory and a core; a crowd of clients must not take all of them
        self._preparing = anyio.CapacityLimiter(_MAX_PREPARING)
        # compiling a grammar may take seconds; those who wait for that wait among themselves
        self._compiling = anyio.CapacityLimiter(1)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        self._service.require_ready()
        async with BodyPlace(self._places) as place:
            asked = parse_request(await read_body(request, self._limits, place), ChatRequest)
            self._check_model(asked.model)
            prepared = await run_sync(self._preparation.chat, asked, limiter=self._limiter(asked))
        return await self._answer(request, asked, prepared)

    async def completion(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        self._service.require_ready()
        async with BodyPlace(self._places) as place:
            asked = parse_request(await read_body(request, self._limits, place), CompletionRequest)
            self._check_model(asked.model)
            prepared = await run_sync(self._preparation.completion, asked, limiter=self._limiter(asked))
        return await self._answer(request, asked, prepared)

    def _limiter(self, asked: GenerationRequest) -> anyio.CapacityLimiter:
        has_grammar = asked.format is not None or (isinstance(asked, ChatRequest) and bool(asked.tools))
        return self._compiling if has_grammar else self._preparing

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        self._check_model(request.path_params["model"])
        return JSONResponse(self._model())

    async def health(self, request: Request) -> Response:
        """`GET /health`: is it alive. While loading 503, as llama.cpp does."""
        phase = self._service.readiness.phase
        if phase in (Phase.READY, Phase.DRAINING):
            return JSONResponse({"status": "ok"})
        return _not_ready(phase, self._service.readiness.reason)

    async def ready(self, request: Request) -> Response:
        """`GET /health/ready`: does it take requests."""
        phase = self._service.readiness.phase
        if phase is Phase.READY:
            return JSONResponse({"status": "ready"})
        return _not_ready(phase, self._service.readiness.reason)

    async def stats(self, request: Request) -> Response:
        """`GET /v1/stats`."""
        return JSONResponse(self._service.stats_report())

    def _model(self) -> dict[str, Any]:
        info = self._service.info
        return {
            "id": info.model_name,
            "object": "model",
            "created": self._created,
            "owned_by": "hobbit-edge",
            "max_model_len": self._service.context,
            "sampling": self._service.sampling_defaults.given,
        }

    def _check_model(self, name: str | None) -> None:
        """One model is served, so a request may leave its name out."""
        if name is not None and name != self._service.info.model_name:
            raise ApiError(
                404,
                f"The model {name[:100]!r} is not served here; {self._service.info.model_name!r} is.",
                param="model",
                code="model_not_found",
            )

    async def _answer(self, request: Request, asked: GenerationRequest, prepared: ReadyRequest) -> Response:
        answer = Answer(
            prepared.kind,
            self._service.info.model_name,
            prepared.choices,
            [len(ids) for ids in prepared.prompts],
            include_usage=asked.include_usage,
        )
        events = JobEvents(request.receive)
        jobs = self._jobs(asked, prepared, events)
        self._service.submit(*jobs)
        if asked.stream:
            return EventStream(events, jobs, answer, self._limits)
        async with events.watch(jobs):
            return await whole_answer(events, answer, self._limits)

    def _jobs(self, asked: GenerationRequest, prepared: ReadyRequest, events: JobEvents) -> list[Job]:
        """Return a job for each choice, in the order of the choices."""
        config, sampling = self._service.config, prepared.sampling
        if sampling.max_tokens is None and config.token_limit is not None:
            sampling = replace(sampling, max_tokens=config.token_limit)
        group = JobGroup()
        return [
            Job(
                prepared.prompts[i // asked.answers],
                sampling,
                partial(events.deliver, i),
                logprobs=asked.alternatives,
                prompt_logprobs=prepared.prompt_logprobs,
                constraint=prepared.constraint_of(i),
                time_limit_s=config.time_limit_s,
                policy=asked.policy,
                name_reason=choice.name_reason,
                choice=i % asked.answers,
                group=group,
            )
            for i, choice in enumerate(prepared.choices)
        ]


def _not_ready(phase: Phase, reason: str) -> Response:
    error = {"code": 503, "message": reason or phase.value, "type": "unavailable_error", "param": None}
    return JSONResponse({"error": error, "status": phase.value}, 503, headers={"Retry-After": "5"})
