"""What a trainer may send: SGLang's request bodies, the fields of them that are answered here."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from minimind.engine import grammar
from minimind.engine.engine import MEMORY
from minimind.engine.sampling import MAX_TOP_LOGPROBS, Sampling
from minimind.serve.bodies import few
from minimind.serve.sampled import MOST, Body, Schema, Stops, Token, limit
from minimind.serve.schema import Prompt


class SamplingParams(Body):
    """`sampling_params`, with SGLang's defaults."""

    max_new_tokens: Annotated[int, Field(ge=0)] | None = 128
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = -1
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    stop: Stops | None = None
    stop_token_ids: Annotated[list[Token], *few(64)] | None = None
    ignore_eos: bool = False
    n: Annotated[int, Field(ge=1)] = 1
    sampling_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    json_schema: Schema | None = None
    regex: str | None = None

    @property
    def form(self) -> str | None:
        """The grammar of the answer."""
        form = grammar.json_schema(self.json_schema) if self.json_schema else None
        return grammar.regex(self.regex) if self.regex else form

    def sampling(self, top_logprobs: int, max_tokens: int | None, form: grammar.Compiled | None) -> Sampling:
        """The engine's rules; `form` is the grammar made ready."""
        return Sampling(
            temperature=self.temperature,
            top_k=max(self.top_k, 0),
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=self.sampling_seed,
            max_new_tokens=limit(self.max_new_tokens, max_tokens),
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
            stop_ids=self.stop_token_ids or [],
            ignore_eos=self.ignore_eos,
            top_logprobs=top_logprobs,
            grammar=form,
        )


Rid = Annotated[str, Field(max_length=200)]


class GenerateRequest(Body):
    """Body of `/generate`: one prompt or a list of them. A text is plain text, without any control token."""

    input_ids: Prompt | None = None
    text: Prompt | None = None
    sampling_params: SamplingParams | Annotated[list[SamplingParams], *few(MOST)] = SamplingParams()
    return_logprob: bool = False
    logprob_start_len: Literal[-1] | None = None
    top_logprobs_num: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] = 0
    stream: bool = False
    rid: Rid | Annotated[list[Rid], *few(MOST)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.input_ids is None) == (self.text is None):
            raise ValueError("give input_ids, or text, and not both")
        first = self.prompts[0]
        if isinstance(first, str) != (self.text is not None):
            raise ValueError("text is a text or several, input_ids are token ids")
        for name, given in (("sampling_params", self.sampling_params), ("rid", self.rid)):
            if isinstance(given, list) and len(given) != len(self.prompts):
                raise ValueError(f"there are {len(self.prompts)} prompts, but {len(given)} {name}")
        if isinstance(self.rid, list) and len(set(self.rid)) < len(self.rid):
            raise ValueError("two prompts have one rid")
        if isinstance(self.rid, str) and len(self.prompts) > 1:
            raise ValueError("give one rid for each prompt")
        return self

    @property
    def single(self) -> bool:
        """Whether one prompt was given, not a list."""
        given = self.input_ids if self.text is None else self.text
        return isinstance(given, str) or isinstance((given or [0])[0], int)

    @property
    def prompts(self) -> list[Any]:
        """The prompts as a list: texts, or lists of ids."""
        given = self.input_ids if self.text is None else self.text
        return [given] if self.single else list(given or [])

    def params(self, prompt: int) -> SamplingParams:
        """The rules of one prompt."""
        return self.sampling_params[prompt] if isinstance(self.sampling_params, list) else self.sampling_params


class UpdateRequest(Body):
    """What every request for new weights may say."""

    weight_version: Annotated[str, Field(max_length=200)] | None = None
    abort_all_requests: bool = False


class DiskRequest(UpdateRequest):
    """Body of `/update_weights_from_disk`: a directory under the one that `--rollout-root` names."""

    model_path: Annotated[str, Field(min_length=1)]


class TensorRequest(UpdateRequest):
    """Body of `/update_weights_from_tensor`: base64 of a pickle for each rank, of which this server is one."""

    serialized_named_tensors: Annotated[list[str], *few(64, 1)]
    load_format: Literal["direct", "flattened_bucket"] | None = None


GroupTitle = Annotated[str, Field(min_length=1, max_length=200)]


class GroupName(Body):
    """Body of `/destroy_weights_update_group`."""

    group_name: GroupTitle = "weight_update_group"


class GroupRequest(GroupName):
    """Body of `/init_weights_update_group`: where the trainer, rank 0, waits."""

    master_address: Annotated[str, Field(min_length=1, max_length=253)]
    master_port: Annotated[int, Field(ge=1, le=65535)]
    rank_offset: Annotated[int, Field(ge=1)]
    world_size: Annotated[int, Field(ge=2)]
    backend: Literal["nccl", "gloo"] = "nccl"


class DistributedRequest(UpdateRequest, GroupName):
    """Body of `/update_weights_from_distributed`: what will be broadcast, in this order."""

    names: Annotated[list[str], *few(MOST, 1)]
    dtypes: Annotated[list[Literal["bfloat16", "float16", "float32"]], *few(MOST, 1)]
    shapes: Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], *few(8)]], *few(MOST, 1)]
    load_format: Literal["flattened_bucket"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not len(self.names) == len(self.dtypes) == len(self.shapes):
            raise ValueError("names, dtypes and shapes are not equally many")
        return self


class VersionRequest(Body):
    """Body of `/update_weight_version`."""

    new_version: Annotated[str, Field(max_length=200)]
    abort_all_requests: bool = True


class WeightRequest(Body):
    """Body of `/get_weights_by_name`: Hugging Face's name of a tensor, and how many rows of it are wanted."""

    name: str
    truncate_size: Annotated[int, Field(ge=1, le=10_000)] = 100


class MemoryRequest(Body):
    """Body of `/release_memory_occupation` and `/resume_memory_occupation`: which memory, by default all."""

    tags: Annotated[list[Literal["kv_cache", "weights", "cuda_graph"]], *few(3)] | None = None

    @property
    def parts(self) -> list[str]:
        """What the engine calls them; recorded graphs go with either."""
        return [tag for tag in self.tags or MEMORY if tag in MEMORY]


class PauseRequest(Body):
    """Body of `/pause_generation`: `abort` ends what is running, the others let it wait."""

    mode: Literal["abort", "in_place", "retract"] = "abort"


class AbortRequest(Body):
    """Body of `/abort_request`."""

    rid: str = ""
    abort_all: bool = False
