"""What ollama's interface sends, as a chat or as a text."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from minimind.serve.bodies import few, validated
from minimind.serve.errors import ApiError
from minimind.serve.sampled import MOST, Body, Stops
from minimind.serve.schema import ChatRequest, CompletionRequest, EmbeddingsRequest, Prompt

DEFAULTS = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""ollama's, where a request says nothing."""


class Options(Body):
    """`options`; those that say how a model is loaded (`num_ctx`, `num_gpu`, ...) say nothing to one that is."""

    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: Stops | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: int | None = None

    def fields(self) -> dict[str, Any]:
        """The same in a chat's words."""
        if self.mirostat:
            raise ApiError(400, "options.mirostat is not supported: use temperature, top_p or min_p", param="options")
        given = DEFAULTS | self.model_dump(exclude_none=True, exclude={"num_predict", "repeat_penalty", "mirostat"})
        # Below 0 ollama means as many as there is room for.
        return given | {
            "max_tokens": self.num_predict if self.num_predict is not None and self.num_predict > 0 else None,
            "repetition_penalty": self.repeat_penalty,
        }


def _without_tag(name: str) -> str:
    return name.removesuffix(":latest")


Model = Annotated[str, Field(min_length=1), AfterValidator(_without_tag)]


class OllamaRequest(Body):
    """What chats and texts have in common. `keep_alive` is not read: the model always stays."""

    model: Model
    stream: bool = True
    format: str | dict[str, Any] | None = None
    options: Options = Options()
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def _common(self) -> dict[str, Any]:
        if isinstance(self.format, dict):
            form: Any = {"type": "json_schema", "json_schema": {"name": "format", "schema": self.format}}
        elif self.format in (None, ""):
            form = None
        elif self.format == "json":
            form = {"type": "json_object"}
        else:
            raise ApiError(400, f"format is {self.format[:40]!r}, but should be 'json' or a schema", param="format")
        thinks = self.think if isinstance(self.think, bool) else None
        return {
            **self.options.fields(),
            **{"model": self.model, "stream": self.stream, "response_format": form, "logprobs": self.logprobs},
            **{"top_logprobs": self.top_logprobs, "open_thinking": thinks},
            "reasoning_effort": self.think if isinstance(self.think, str) else None,
        }


class OllamaChatRequest(OllamaRequest):
    """Body of `/api/chat`."""

    messages: Annotated[list[dict[str, Any]], *few(MOST)] = Field(default_factory=list)
    tools: Annotated[list[dict[str, Any]], *few(512)] | None = None

    @property
    def loads(self) -> bool:
        """Whether it only asks for the model to be there."""
        return not self.messages

    def chat(self) -> ChatRequest:
        """The same as a chat.

        Raises:
            ApiError: 400, it holds what a chat has no word for.
        """
        turns = [_turn(message) for message in self.messages]
        prefilled = bool(turns) and turns[-1]["role"] == "assistant" and not turns[-1]["tool_calls"]
        body = {"messages": turns, "tools": self.tools or None, "continue_final_message": prefilled}
        return validated(ChatRequest, self._common() | body)


class OllamaGenerateRequest(OllamaRequest):
    """Body of `/api/generate`: one question, or with `raw` a text to be continued."""

    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[Any] | None = None
    images: list[Any] | None = None

    @property
    def loads(self) -> bool:
        """Whether it only asks for the model to be there."""
        return not self.prompt

    def _possible(self) -> None:
        for name, why in (
            ("suffix", "this model continues texts, it does not fill gaps"),
            ("template", "the model has its own"),
            ("context", "send the conversation to /api/chat"),
            ("images", "this model reads text only"),
        ):
            if getattr(self, name):
                raise ApiError(400, f"{name} is not supported: {why}", "invalid_value", name)

    def chat(self) -> ChatRequest | CompletionRequest:
        """The same as a chat, or with `raw` as a text.

        Raises:
            ApiError: 400, it holds what they have no word for.
        """
        self._possible()
        if self.raw:
            return self._text()
        turns = [{"role": "system", "content": self.system}] if self.system else []
        return validated(
            ChatRequest, {**self._common(), "messages": [*turns, {"role": "user", "content": self.prompt}]}
        )

    def _text(self) -> CompletionRequest:
        body = self._common()
        if self.think or self.system or body["response_format"] or self.logprobs or self.top_logprobs:
            raise ApiError(400, "raw goes without system, think, format and logprobs", "invalid_value", "raw")
        plain = {key: value for key, value in body.items() if key not in ("logprobs", "top_logprobs")}
        room = plain["max_tokens"] or 2**31 - 1  # a text's own default is 16
        return validated(CompletionRequest, plain | {"prompt": self.prompt, "max_tokens": room})


class EmbedRequest(Body):
    """Body of `/api/embed`: a text or several; what is too long is cut, unless `truncate` is false."""

    model: Model
    input: Prompt
    truncate: bool = True
    dimensions: int | None = None

    def texts(self) -> EmbeddingsRequest:
        """The same in OpenAI's words."""
        return validated(EmbeddingsRequest, self.model_dump())


class SingleRequest(Body):
    """Body of `/api/embeddings`, the older form of `/api/embed`: one text."""

    model: Model
    prompt: str

    def texts(self) -> EmbeddingsRequest:
        """The same in OpenAI's words."""
        return validated(EmbeddingsRequest, {"model": self.model, "input": self.prompt, "truncate": True})


class ShowRequest(Body):
    """Body of `/api/show`."""

    model: str | None = None
    name: str | None = None


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("images"):
        raise ApiError(400, "messages: this model reads text only, and no images", "invalid_value", "messages")
    calls = [
        {"function": call.get("function")} if isinstance(call, dict) else call
        for call in message.get("tool_calls") or []
    ]
    return {
        **{"role": message.get("role"), "content": message.get("content"), "tool_calls": calls or None},
        "reasoning_content": message.get("thinking"),
    }
