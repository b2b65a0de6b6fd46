"""What clients may send: OpenAI's request bodies, and the extensions that other servers have made common.

Types are strict (`"temperature": "1"` is a mistake, not a number), unknown fields are ignored, null means absent.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from minimind.engine.sampling import MOST_TOP_LOGPROBS, Sampling
from minimind.serve.bodies import few, sized
from minimind.tokenizer.chat import normalize_tool

BIAS = 100.0
"""Largest `logit_bias`; it forbids or forces a token."""
MOST = 4096
"""Entries of most lists of objects; a server's own limits are lower."""


class Body(BaseModel):
    """A JSON object of a request; a field that is null has its default."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def _token_keys(bias: dict[str, float]) -> dict[str, float]:
    for key in bias:
        if not (key.isascii() and key.isdecimal()) or len(key) > 9:
            raise ValueError(f"the key {key[:20]!r} is not a token id")
    return bias


Number = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-BIAS, le=BIAS)]
Biases = Annotated[dict[str, Bias], Field(max_length=1024), sized(1024), AfterValidator(_token_keys)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = StopString | Annotated[list[StopString], *few(16)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Token], Field(min_length=1, fail_fast=True)]


class Sampled(Body):
    """The fields that say how tokens are chosen, the same for chats and texts."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stops | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024), sized(1024), AfterValidator(_token_keys)] | None = (
        None
    )
    stream: bool | None = None
    stream_options: "StreamOptions | None" = None
    # Extensions, named as in vLLM.
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    stop_token_ids: Annotated[list[Token], *few(64)] | None = None
    ignore_eos: bool | None = None
    cache_salt: Annotated[str, Field(max_length=200)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="after")
    def _comes_whole(self) -> Self:
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs come with whole answers only: leave stream out")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, **more: Any) -> Sampling:
        """The engine's rules; absent fields have OpenAI's defaults."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(self.top_k or 0, 0),  # vLLM's "off" is -1
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-6),  # 0 leaves the likeliest token, as it should
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias={int(id): bias for id, bias in (self.logit_bias or {}).items()},
            seed=self.seed,
            ignore_eos=bool(self.ignore_eos),
            **more,
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def limit(asked: int | None, most: int | None) -> int | None:
    """The lesser of two numbers that may be absent."""
    return min((n for n in (asked, most) if n is not None), default=None)


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: bool | None = None


def _is_text(kind: str) -> str:
    if kind != "text":
        raise ValueError(f"this model reads text only, and no {kind[:40]!r}")
    return kind


class Part(Body):
    """One part of a message's content."""

    type: Annotated[str, AfterValidator(_is_text)]
    text: str


class CalledFunction(Body):
    """What an earlier answer called."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class Call(Body):
    """A tool call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Body):
    """One turn. `developer` is the newer name of `system`; reasoning is called by either of its common names."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], *few(MOST)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[Call], *few(MOST)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        thought = self.reasoning_content or self.reasoning
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or thought)):
            raise ValueError("content is missing")
        return self

    def turn(self) -> dict[str, Any]:
        """The message as the chat template takes it."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = [call.model_dump(include={"type", "function"}) for call in self.tool_calls or []]
        thought = self.reasoning_content or self.reasoning
        return {"role": self.role, "content": text, "reasoning_content": thought, "tool_calls": calls}


class Function(Body):
    """A function that may be called; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Body):
    """An entry of `tools`."""

    type: Literal["function"] = "function"
    function: Function

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        return normalize_tool(value) if isinstance(value, dict) else value


Messages = Annotated[list[Message], *few(MOST, 1)]
Tools = Annotated[list[ToolSpec], *few(512)]


class NamedFunction(Body):
    """The function that must be called."""

    name: str


class NamedTool(Body):
    """`tool_choice` as an object."""

    type: Literal["function"] = "function"
    function: NamedFunction


class JsonSchema(Body):
    """The `json_schema` of a response format."""

    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("json_schema is missing")
        return self


class TemplateOptions(Body):
    """`chat_template_kwargs`: the two names of one switch; nothing else reaches the template."""

    open_thinking: bool | None = None
    enable_thinking: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
"""OpenAI's grades of reasoning; here the first two mean none, the others some."""


class ChatRequest(Sampled):
    """Body of `/v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateOptions | None = None
    open_thinking: bool | None = None
    reasoning_effort: Effort | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        names = [tool.function.name for tool in self.tools or []]
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is 'required', but there are no tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        return self

    @property
    def callable(self) -> set[str]:
        """The names that the answer may call."""
        return {tool.function.name for tool in self.tools or [] if self.tool_choice != "none"}

    @property
    def thinks(self) -> bool:
        """Whether the answer begins with visible reasoning."""
        options = self.chat_template_kwargs or TemplateOptions()
        effort = None if self.reasoning_effort is None else self.reasoning_effort not in ("none", "minimal")
        chosen = (self.open_thinking, options.open_thinking, options.enable_thinking, effort)
        return next((choice for choice in chosen if choice is not None), False)


def _kind_of_prompt(value: Any) -> str | None:
    """By its first entry: were all kinds tried, each wrong entry would be described by each of them."""
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(value, str):
        return "text"
    return {int: "ids", str: "texts", list: "lists"}.get(type(first))


Prompt = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[list[str], *few(MOST, 1), Tag("texts")]
    | Annotated[list[Ids], *few(MOST, 1), Tag("lists")],
    Discriminator(
        _kind_of_prompt,
        custom_error_type="prompt",
        custom_error_message="give a text, token ids, or a list of one of them",
    ),
]
"""A text or token ids, one or several."""


class CompletionRequest(Sampled):
    """Body of `/v1/completions`: a text, several, or token ids in their place."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    add_special_tokens: bool = True
    suffix: str | None = None
    best_of: int | None = None

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.suffix:
            raise ValueError("suffix is not supported: this model continues texts, it does not fill gaps")
        if self.best_of not in (None, 1, self.n or 1):
            raise ValueError("best_of is not supported: ask for n answers and choose")
        return self


class TokenizeRequest(Body):
    """Body of `/tokenize`: a text under any of its common names, or a conversation as the model would see it."""

    content: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_generation_prompt: bool = True
    with_pieces: bool = False

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if self.messages is None and self.content is None and self.prompt is None and self.text is None:
            raise ValueError("give 'content' (or 'prompt', or 'text'), or 'messages'")
        return self


class DetokenizeRequest(Body):
    """Body of `/detokenize`."""

    tokens: Annotated[list[Token], Field(fail_fast=True)]


class ToolRequest(Body):
    """Body of `/tools/NAME`: what a model wrote as the arguments of a call."""

    arguments: dict[str, Any] | str
