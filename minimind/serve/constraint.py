"""What a request demands of an answer's form, as a grammar for the engine."""

from minimind.engine import grammar
from minimind.serve.schema import AllowedChoice, ChatRequest, CompletionRequest, NamedTool


def constraint(request: ChatRequest | CompletionRequest) -> str | None:
    """The grammar of the answer, or None where anything may be said. A forced tool call beats a response format."""
    if isinstance(request, CompletionRequest):
        return request.form()
    tools, choice = request.tools or [], request.tool_choice
    if isinstance(choice, AllowedChoice):
        tools = [tool for tool in tools if tool.function.name in request.callable]
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
    if request.must_call:
        return grammar.tool_call([tool.model_dump(exclude_none=True) for tool in tools], request.thinks)
    shape = request.response_format
    if shape and shape.json_schema:
        return grammar.json_schema(shape.json_schema.schema_, request.thinks)
    if shape and shape.type == "json_object":
        return grammar.json_schema({"type": "object", **(shape.schema_ or {})}, request.thinks)
    return request.form(request.thinks)
