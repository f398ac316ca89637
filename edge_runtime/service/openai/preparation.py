"""What happens to a request before it is queued: prompts become tokens, formats become grammars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_runtime.base.arrays import I32
from edge_runtime.base.errors import RequestError
from edge_runtime.engine.detokenizer import decode_apart, starts_of
from edge_runtime.engine.sampler import Constraint, SamplingParams
from edge_runtime.service.openai.answers import CHAT, COMPLETION, AnswerKind
from edge_runtime.service.openai.api_errors import bad_field, unsupported
from edge_runtime.service.openai.choices import ChatChoice, Choice
from edge_runtime.service.openai.completion_choice import CompletionChoice, Echo
from edge_runtime.service.openai.copied_constraint import CopiedConstraint, CopyableConstraint
from edge_runtime.service.openai.generation import GenerationRequest
from edge_runtime.service.openai.reasoning import AfterReasoning
from edge_runtime.service.openai.requests import ChatRequest, CompletionRequest
from edge_runtime.service.service import Service

_ANSWER_TOKENS = 128


@dataclass(frozen=True)
class ReadyRequest:
    """A request that can be queued.

    Attributes:
        kind: how the objects of the answer are called.
        prompts: tokens int32 [N] of each prompt.
        choices: those of the first prompt, then those of the second, and so on.
        sampling: of every choice.
        constraint: of every choice; None: any token may be drawn.
        prompt_logprobs: how many alternatives a token of a prompt; None: it is not scored.
    """

    kind: AnswerKind
    prompts: Sequence[I32]
    choices: Sequence[Choice]
    sampling: SamplingParams
    constraint: CopyableConstraint | None
    prompt_logprobs: int | None = None

    def constraint_of(self, index: int) -> Constraint | None:
        """Return the constraint of one choice."""
        if self.constraint is None or len(self.choices) == 1:
            return self.constraint
        return CopiedConstraint(self.constraint)


class Preparation:
    """Prepares requests for one service. Runs in worker threads: it takes a core for as long as it lasts.

    Args:
        service: loaded.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def chat(self, asked: ChatRequest) -> ReadyRequest:
        """Render the messages and compile the grammar.

        Raises:
            ApiError: the request cannot be served; names the field.
        """
        service = self._service
        text = service.chat.prompt(asked)
        ids = service.prompts.encode(text, "messages", add_special_tokens=False)
        prompt = service.prompts.check(ids, asked.token_limit, "messages")
        service.prompts.check_logprobs(asked, [prompt], "top_logprobs")
        budget = self._thinking_budget(len(ids), asked.token_limit)
        of_format = self._format_constraint(asked)
        of_tools = self._tool_constraint(asked, budget)
        constraint = of_tools or of_format
        end = service.chat.thinking_end(text)
        if constraint is not None and end is not None and not (of_tools is not None and service.chat.is_harmony):
            constraint = self._after_reasoning(constraint, end, budget)
        choices = [
            ChatChoice(asked, service.vocabulary, service.chat.splitter(asked, text)) for _ in range(asked.answers)
        ]
        sampling = replace(self._sampling(asked), shown=service.chat.shown(asked))
        return ReadyRequest(CHAT, [prompt], choices, sampling, constraint)

    def completion(self, asked: CompletionRequest) -> ReadyRequest:
        """Encode the prompts and compile the grammar.

        Raises:
            ApiError: the request cannot be served; names the field.
        """
        service, prompts, choices = self._service, [], []
        for number, given in enumerate(asked.prompts):
            param = "prompt" if len(asked.prompts) == 1 else f"prompt.{number}"
            ids = service.prompts.encode(given, param) if isinstance(given, str) else given
            prompts.append(service.prompts.check(ids, asked.token_limit, param))
        service.prompts.check_logprobs(asked, prompts, "logprobs", is_echoed=asked.scores_prompt)
        for given, prompt in zip(asked.prompts, prompts, strict=True):
            echo = self._echo(asked, given, prompt)
            choices += [CompletionChoice(asked, service.vocabulary, echo) for _ in range(asked.answers)]
        scored = asked.alternatives if asked.scores_prompt else None
        return ReadyRequest(COMPLETION, prompts, choices, self._sampling(asked), self._format_constraint(asked), scored)

    def _echo(self, asked: CompletionRequest, given: Any, ids: I32) -> Echo:
        """Return what is repeated of a prompt."""
        tokenizer = self._service.tokenizer
        if not asked.echo:
            return Echo("", ids)
        if not asked.scores_prompt:
            return Echo(given if isinstance(given, str) else tokenizer.decode(ids.tolist()), ids)
        if isinstance(given, str):
            return Echo(given, ids, starts_of(tokenizer.spans(given)))
        text, starts = decode_apart(tokenizer, ids.tolist())
        return Echo(text, ids, starts)

    def _sampling(self, asked: GenerationRequest) -> SamplingParams:
        if asked.policy is not None:
            self._service.check_policy(asked.policy)
        sampling = asked.sampling(self._service.sampling_defaults)
        try:
            sampling.require_vocabulary(self._service.vocab_size)
        except RequestError as err:
            raise bad_field("logit_bias", str(err)) from err
        return sampling

    def _format_constraint(self, asked: GenerationRequest) -> CopyableConstraint | None:
        if asked.format is None:
            return None
        try:
            return self._service.vocabulary.of_format(asked.format)
        except (RequestError, ValueError) as err:
            raise bad_field("response_format", str(err)) from err

    def _tool_constraint(self, asked: ChatRequest, budget: int) -> CopyableConstraint | None:
        """Return the constraint of forced calls, strict tools or calls beside a format; None: it calls as it likes.

        Args:
            asked: the request.
            budget: tokens of thinking before a call, where the constraint governs them too.
        """
        service, tools = self._service, asked.offered_tools
        is_forced = asked.choice not in ("none", "auto")
        wanted = None if is_forced or not tools else asked.format
        if not is_forced and wanted is None and not any(tool.strict for tool in tools):
            return None
        calls = service.chat.calls
        if calls is None and not service.chat.is_harmony:
            raise unsupported(
                "tool_choice" if is_forced else "tools",
                "calls cannot be forced in this model's format. Use tool_choice 'auto' and tools that are not strict.",
            )
        try:
            if service.chat.is_harmony and wanted is not None:
                return service.vocabulary.of_harmony_or_format(tools, wanted, budget)
            if service.chat.is_harmony:
                return service.vocabulary.of_harmony(tools, budget if is_forced else None)
            assert calls is not None, "checked above"
            if wanted is not None:
                return service.vocabulary.of_calls_or_format(
                    tools, calls, wanted, only_one_call=asked.parallel_tool_calls is False
                )
            make = service.vocabulary.of_tool_call if is_forced else service.vocabulary.of_strict_tools
            return make(tools, calls)
        except RequestError as err:
            raise bad_field("tools", str(err)) from err

    def _thinking_budget(self, prompt_tokens: int, limit: int | None) -> int:
        """Tokens a model may think: half of those there are, or 128, remain for the answer."""
        room = self._service.context - prompt_tokens
        room = min(limit or room, room)
        return max(room - max(room // 2, _ANSWER_TOKENS), 0)

    def _after_reasoning(
        self, constraint: CopyableConstraint, end: tuple[str, str], budget: int
    ) -> CopyableConstraint:  # fmt: skip
        """Apply a constraint once the thinking is over."""
        service = self._service
        return AfterReasoning(
            constraint,
            service.vocabulary,
            mark=end[0],
            closing=service.tokenizer.encode(end[1], add_special_tokens=False),
            budget=budget,
        )
