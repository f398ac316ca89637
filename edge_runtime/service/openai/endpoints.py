"""The endpoints of the API: read a request, hand it to the serving loop, send the answer."""

from __future__ import annotations

from dataclasses import replace
from time import time
from typing import Any

import anyio
import numpy as np
from anyio.to_thread import run_sync
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge_runtime.base.errors import RequestError
from edge_runtime.engine.job import Job
from edge_runtime.engine.sampler import Constraint
from edge_runtime.service.http.exchange import EventStream, HttpLimits, JobEvents, read_body, whole_answer
from edge_runtime.service.openai.answers import Answer, ChatAnswer, CompletionAnswer
from edge_runtime.service.openai.api_errors import ApiError, bad_field, unsupported
from edge_runtime.service.openai.output_splitter import CALL_CLOSE, CALL_OPEN, THINK_CLOSE
from edge_runtime.service.openai.parser import parse_request
from edge_runtime.service.openai.reasoning import AfterReasoning
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest, GenerationRequest
from edge_runtime.service.ops.health import Phase
from edge_runtime.service.service import Service

_ANSWER_TOKENS = 128
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
        # preparing takes memory and a core; a crowd of clients must not take all of them
        self._preparing = anyio.CapacityLimiter(_MAX_PREPARING)
        # compiling a grammar may take seconds; those who wait for that wait among themselves
        self._compiling = anyio.CapacityLimiter(1)

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        self._service.require_ready()
        asked = parse_request(await read_body(request, self._limits), ChatRequest)
        self._check_model(asked.model)
        ids, text, constraint = await run_sync(self._prepare_chat, asked, limiter=self._limiter(asked))
        answer = ChatAnswer(
            asked,
            self._service.info.model_name,
            self._service.vocabulary,
            len(ids),
            self._service.chat.splitter(asked, text),
        )
        return await self._answer(request, asked, ids, constraint, answer)

    async def completion(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        self._service.require_ready()
        asked = parse_request(await read_body(request, self._limits), CompletionRequest)
        self._check_model(asked.model)
        ids, text, constraint = await run_sync(self._prepare_completion, asked, limiter=self._limiter(asked))
        answer = CompletionAnswer(asked, self._service.info.model_name, self._service.vocabulary, len(ids), text)
        return await self._answer(request, asked, ids, constraint, answer)

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
        }

    def _check_model(self, name: str) -> None:
        if name != self._service.info.model_name:
            raise ApiError(
                404,
                f"The model {name[:100]!r} is not served here; {self._service.info.model_name!r} is.",
                param="model",
                code="model_not_found",
            )

    def _prepare_chat(self, asked: ChatRequest) -> tuple[NDArray[np.int32], str, Constraint | None]:
        service = self._service
        text = service.chat.prompt(asked)
        ids = service.prompts.encode(text, "messages", add_special_tokens=False)
        prompt = service.prompts.check(ids, asked.token_limit, "messages")
        constraint, tools = self._checked(asked), asked.offered_tools
        is_forced = asked.choice not in ("none", "auto")
        if is_forced or any(tool.strict for tool in tools):
            if service.chat.has_xml_calls:
                raise unsupported(
                    "tool_choice" if is_forced else "tools",
                    "this model writes tool calls as XML, which cannot be forced here. Use tool_choice 'auto' and "
                    "tools that are not strict.",
                )
            make = service.vocabulary.of_tool_call if is_forced else service.vocabulary.of_strict_tools
            try:
                constraint = make(tools, f"{CALL_OPEN}\n", f"\n{CALL_CLOSE}")
            except RequestError as err:
                raise bad_field("tools", str(err)) from err
        if constraint is not None and service.chat.starts_thinking(text):
            constraint = self._after_reasoning(constraint, len(ids), asked.token_limit)
        return prompt, text, constraint

    def _after_reasoning(self, constraint: Constraint, prompt_tokens: int, limit: int | None) -> Constraint:
        """Apply a constraint once the thinking is over; half of the tokens there are, or 128, remain for the answer."""
        service = self._service
        room = service.context - prompt_tokens
        room = min(limit or room, room)
        return AfterReasoning(
            constraint,
            service.vocabulary,
            mark=THINK_CLOSE,
            closing=service.tokenizer.encode(f"{THINK_CLOSE}\n\n", add_special_tokens=False),
            budget=max(room - max(room // 2, _ANSWER_TOKENS), 0),
        )

    def _prepare_completion(self, asked: CompletionRequest) -> tuple[NDArray[np.int32], str, Constraint | None]:
        service = self._service
        given = asked.text_or_ids
        ids = service.prompts.encode(given, "prompt") if isinstance(given, str) else given
        prompt = service.prompts.check(ids, asked.token_limit, "prompt")
        echo = ""
        if asked.echo:
            echo = given if isinstance(given, str) else service.tokenizer.decode(prompt.tolist())
        return prompt, echo, self._checked(asked)

    def _checked(self, asked: GenerationRequest) -> Constraint | None:
        """Return the constraint of the text, once the policy is known to exist."""
        if asked.policy is not None:
            self._service.check_policy(asked.policy)
        if asked.format is None:
            return None
        try:
            return self._service.vocabulary.of_format(asked.format)
        except (RequestError, ValueError) as err:
            raise bad_field("response_format", str(err)) from err

    async def _answer(
        self,
        request: Request,
        asked: GenerationRequest,
        ids: NDArray[np.int32],
        constraint: Constraint | None,
        answer: Answer,
    ) -> Response:
        config, sampling = self._service.config, asked.sampling
        if sampling.max_tokens is None and config.token_limit is not None:
            sampling = replace(sampling, max_tokens=config.token_limit)
        events = JobEvents(request.receive)
        job = Job(
            ids,
            sampling,
            events.deliver,
            logprobs=asked.alternatives,
            constraint=constraint,
            time_limit_s=config.time_limit_s,
            policy=asked.policy,
            name_reason=answer.name_reason,
        )
        self._service.submit(job)
        if asked.stream:
            return EventStream(events, job, answer, self._limits)
        async with events.watch(job):
            return await whole_answer(events, answer)


def _not_ready(phase: Phase, reason: str) -> Response:
    error = {"code": 503, "message": reason or phase.value, "type": "unavailable_error", "param": None}
    return JSONResponse({"error": error, "status": phase.value}, 503, headers={"Retry-After": "5"})
