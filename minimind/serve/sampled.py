"""What chats and texts have in common: how tokens are chosen, and what the answer must look like.

Types are strict (`"temperature": "1"` is a mistake, not a number), unknown fields are ignored, null means absent.
"""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from minimind.engine import grammar
from minimind.engine.sampling import MAX_TOP_LOGPROBS, Sampling
from minimind.serve.bodies import few, sized
from minimind.text import read_json
from minimind.tokenizer.bpe import Tokenizer

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


Number = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-BIAS, le=BIAS)]


def _pairs(value: Any) -> Any:
    """llama.cpp's other form, `[[token, bias], ...]`, as an object."""
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        return value
    return {str(key): bias for key, bias in value}


Biases = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=200)], Bias],
    Field(max_length=1024),
    BeforeValidator(_pairs),
    sized(1024),
]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
Stops = StopString | Annotated[list[StopString], *few(16)]
Choices = Annotated[list[Annotated[str, Field(min_length=1, max_length=10_000)]], *few(1024, 1)]


def _read(value: Any) -> Any:
    try:
        return read_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"it is not valid JSON ({error})") from None


Schema = Annotated[dict[str, Any], BeforeValidator(_read, json_schema_input_type=dict[str, Any] | str)]
"""A JSON schema, as an object or as its text."""
Token = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[Token], Field(min_length=1, fail_fast=True)]


class StreamOptions(Body):
    """`stream_options`."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Form(Body):
    """`structured_outputs`, vLLM's: exactly one of these; `grammar` is in Lark's syntax."""

    json_: Annotated[Schema | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [value for value in (self.json_, self.regex, self.choice, self.grammar) if value is not None]
        if len(given) != 1:
            raise ValueError("an answer has one form: json, regex, choice or grammar")
        return self

    def grammar_text(self, thinks: bool) -> str:
        """As the engine takes it."""
        if self.json_ is not None:
            return grammar.json_schema(self.json_, thinks)
        if self.regex is not None:
            return grammar.regex(self.regex, thinks)
        return grammar.choice(self.choice, thinks) if self.choice else grammar.lark(self.grammar or "", thinks)


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
    logit_bias: Biases | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Extensions, named as in vLLM.
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    stop_token_ids: Annotated[list[Token], *few(64)] | None = None
    ignore_eos: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    return_token_ids: bool | None = None
    structured_outputs: Form | None = None

    @model_validator(mode="before")
    @classmethod
    def _guided(cls, value: Any) -> Any:
        """`guided_json` and its like are older names of what `structured_outputs` holds."""
        if not isinstance(value, dict) or not isinstance(value.get("structured_outputs") or {}, dict):
            return value
        guided = {kind: value.get(f"guided_{kind}") for kind in ("json", "regex", "choice", "grammar")}
        guided = {kind: given for kind, given in guided.items() if given is not None}
        given = value.get("structured_outputs")
        return {**value, "structured_outputs": {**(given or {}), **guided}} if guided else value

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs come with whole answers only: leave stream out")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options go with stream: true only")
        return self

    @property
    def thinks(self) -> bool:
        """Whether the answer begins with visible reasoning."""
        return False

    def form(self, tokenizer: Tokenizer) -> str | None:
        """The grammar that the answer is held to; None: anything may be said."""
        return self.structured_outputs.grammar_text(self.thinks) if self.structured_outputs else None

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def _biases(self, tokenizer: Tokenizer) -> dict[int, float]:
        """By token id; a key that is none is a text, each of whose tokens is meant, as in llama.cpp."""
        biases: dict[int, float] = {}
        for key, bias in (self.logit_bias or {}).items():
            is_id = key.isascii() and key.isdecimal() and len(key) < 10
            biases |= dict.fromkeys([int(key)] if is_id else tokenizer.encode(key), bias)
        return biases

    def sampling(self, tokenizer: Tokenizer, **more: Any) -> Sampling:
        """The engine's rules; absent fields have OpenAI's defaults."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(self.top_k or 0, 0),  # vLLM's "off" is -1
            top_p=1.0 if self.top_p is None else max(self.top_p, 1e-6),  # 0 leaves the likeliest token, as it should
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self._biases(tokenizer),
            seed=None if self.seed == -1 else self.seed,  # so ollama, llama.cpp and vLLM say that any will do
            ignore_eos=bool(self.ignore_eos),
            **more,
        )


def limit(asked: int | None, most: int | None) -> int | None:
    """The lesser of two numbers that may be absent; -1, as llama.cpp has it, is absent too."""
    return min((n for n in (asked, most) if n is not None and n >= 0), default=None)


def _some_or_all(tokens: int) -> int:
    if tokens == 0 or tokens < -1:
        raise ValueError("it should be 1 or more, or -1 for as many as there is room for")
    return tokens


Tokens = Annotated[int, AfterValidator(_some_or_all)]
"""How many tokens an answer may have."""
