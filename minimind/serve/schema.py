"""What clients may send: OpenAI's request bodies, and the extensions that other servers have made common."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from minimind.engine import grammar
from minimind.engine.sampling import MAX_TOP_LOGPROBS
from minimind.serve.bodies import few
from minimind.serve.sampled import MOST, Body, Ids, Sampled, Token, Tokens
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import normalize_tool


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
    refusal: str | None = None
    tool_calls: Annotated[list[Call], *few(MOST)] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        thought = self.reasoning_content or self.reasoning
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or thought or self.refusal)):
            raise ValueError("content is missing")
        return self

    def turn(self) -> dict[str, Any]:
        """The message as the chat template takes it."""
        content = self.content or self.refusal or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        calls = [call.model_dump(include={"type", "function"}) for call in self.tool_calls or []]
        thought = self.reasoning_content or self.reasoning
        return {"role": self.role, "content": text, "reasoning_content": thought, "tool_calls": calls}


class Function(Body):
    """A function that may be called; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, Field(exclude=True)] = None
    """That calls are held to the schema: an order to the server, nothing for the model to read."""


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


class AllowedTools(Body):
    """The tools that may be called of those that are described."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], *few(512, 1)]


class AllowedChoice(Body):
    """`tool_choice` as a choice of several."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchema(Body):
    """The `json_schema` of a response format."""

    name: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError("schema goes with json_object; json_schema holds its own")
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
    max_completion_tokens: Tokens | None = None
    max_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateOptions | None = None
    open_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    functions: Any = None
    function_call: Any = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if self.functions is not None or self.function_call is not None:
            raise ValueError("functions and function_call are no longer read: use tools and tool_choice")
        if self.continue_final_message and (self.messages[-1].role != "assistant" or self.messages[-1].tool_calls):
            raise ValueError("continue_final_message needs a last message of the assistant, without tool calls")
        names = [tool.function.name for tool in self.tools or []]
        if isinstance(self.tool_choice, AllowedChoice):
            allowed = {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
            if missing := allowed - set(names):
                raise ValueError(f"tool_choice allows {min(missing)!r}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is 'required', but there are no tools")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name!r}, which is not among the tools")
        return self

    @property
    def callable(self) -> set[str]:
        """The names that the answer may call."""
        names = {tool.function.name for tool in self.tools or [] if self.tool_choice != "none"}
        if isinstance(self.tool_choice, AllowedChoice):
            return names & {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
        return names

    @property
    def must_call(self) -> bool:
        """Whether the answer is a call and nothing else."""
        choice = self.tool_choice
        mode = choice.allowed_tools.mode if isinstance(choice, AllowedChoice) else choice
        return mode == "required" or isinstance(choice, NamedTool)

    def form(self, tokenizer: Tokenizer) -> str | None:
        """The grammar that the answer is held to, behind a thought.

        A forced tool call beats a response format, and that beats `strict` tools, which need a token that begins calls.
        """
        chosen = self.callable
        if isinstance(self.tool_choice, NamedTool):
            chosen = {self.tool_choice.function.name}
        functions = [tool.function for tool in self.tools or [] if tool.function.name in chosen]
        if self.must_call:
            return grammar.tool_call([one.model_dump() for one in functions], self.thinks)
        shape = self.response_format
        if shape and shape.json_schema:
            return grammar.json_schema(shape.json_schema.schema_, self.thinks)
        if shape and shape.type == "json_object":
            return grammar.json_schema({"type": "object", **(shape.schema_ or {})}, self.thinks)
        marked = tokenizer.control_id("<tool_call>") is not None
        if self.structured_outputs or not (marked and any(one.strict for one in functions)):
            return super().form(tokenizer)
        loose = {"type": "object"}
        held = [{"name": one.name, "parameters": one.parameters if one.strict else loose} for one in functions]
        return grammar.tool_calls(held, self.thinks)

    @property
    def thinks(self) -> bool:
        """Whether the answer begins with visible reasoning."""
        if self.continue_final_message:
            last = self.messages[-1].turn()
            return bool(last["reasoning_content"] and not last["content"])
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
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
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


class EmbeddingsRequest(Body):
    """Body of `/v1/embeddings`, and of ollama's `/api/embed`."""

    prompt: Annotated[Prompt, Field(alias="input")]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    truncate: bool = False
    stream: Literal[False] | None = None

    def form(self, tokenizer: Tokenizer) -> None:
        """Nothing is written, in no form."""


class TemplateRequest(ChatRequest):
    """Body of `/apply-template`: a chat's; how tokens are chosen says nothing here."""


class TokenizeRequest(Body):
    """Body of `/tokenize`: a text under any of its common names, or a conversation as the model would see it."""

    content: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    add_generation_prompt: bool = True
    add_special: bool = False
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
