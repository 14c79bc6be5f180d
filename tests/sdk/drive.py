"""Drives every route of a running server with the official SDKs of OpenAI and Anthropic.

usage: drive.py BASE_URL MODEL CONSTRAINED

CONSTRAINED answers under a JSON schema are checked with `jsonschema`. Any failure is an exception.
"""

import base64
import json
import struct
import sys
import urllib.request

import anthropic
import jsonschema
import openai

BASE, MODEL, CONSTRAINED = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0)
claude = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0)
USER = [{"role": "user", "content": "What is the weather in Paris?"}]

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "metric": {"type": "boolean"},
    },
    "required": ["city", "days", "metric"],
    "additionalProperties": False,
}
SCHEMAS = [
    WEATHER,
    {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
            "kind": {"anyOf": [{"const": "a"}, {"type": "integer", "minimum": 0, "maximum": 99}, {"type": "null"}]},
        },
        "required": ["name", "tags", "kind"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
        "$defs": {
            "leaf": {
                "type": "object",
                "properties": {"x": {"type": "number", "minimum": -5, "maximum": 5}, "y": {"type": "boolean"}},
                "required": ["x", "y"],
                "additionalProperties": False,
            }
        },
    },
]


def openai_routes():
    assert MODEL in [m.id for m in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL

    c = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5, seed=1, logprobs=2)
    assert c.usage.completion_tokens == 5 and len(c.choices[0].logprobs.tokens) == 5
    parts = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=5, seed=1, stream=True)
    assert "".join(p.choices[0].text for p in parts if p.choices) == c.choices[0].text

    ask = dict(model=MODEL, messages=USER, max_tokens=8, seed=1)
    c = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    assert len(c.choices[0].logprobs.content) == c.usage.completion_tokens
    text, usage = "", None
    for part in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        usage = part.usage or usage
        text += "".join(p.delta.content or "" for p in part.choices)
    assert text == c.choices[0].message.content and usage.total_tokens == c.usage.total_tokens
    several = client.chat.completions.create(**ask, n=3, stop=["\n"])
    assert len(several.choices) == 3
    with client.chat.completions.stream(**ask) as stream:
        try:
            final = stream.get_final_completion()
        except openai.LengthFinishReasonError as cut:
            final = cut.completion
        assert final.choices[0].message.content == text

    tool = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": WEATHER}}
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ["required", named]:
        ask = dict(model=MODEL, messages=USER, tools=[tool], tool_choice=choice, parallel_tool_calls=False, max_tokens=2000, seed=3)
        c = client.chat.completions.create(**ask)
        call = c.choices[0].message.tool_calls[0]
        assert c.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER)
        with client.chat.completions.stream(**ask) as stream:
            again = stream.get_final_completion().choices[0].message.tool_calls[0]
        assert again.function.arguments == call.function.arguments
    answered = USER + [c.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert client.chat.completions.create(model=MODEL, messages=answered, tools=[tool], max_tokens=5).usage.prompt_tokens > 20

    one = client.embeddings.create(model=MODEL, input=["a cat", "a dog"], encoding_format="float")
    both = client.embeddings.create(model=MODEL, input=["a cat", "a dog"], encoding_format="base64")
    for a, b in zip(one.data, both.data):
        raw = b.embedding
        if isinstance(raw, str):
            raw = base64.b64decode(raw)
            raw = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert all(abs(x - y) < 1e-6 for x, y in zip(a.embedding, raw))
        assert abs(sum(x * x for x in a.embedding) - 1) < 1e-4

    try:
        client.chat.completions.create(model=MODEL, messages=USER, extra_body={"temprature": 1})
        raise AssertionError("an unknown field was taken")
    except openai.BadRequestError as e:
        assert e.code == "unknown_field" and e.param == "temprature"
    try:
        client.chat.completions.create(model="nobody", messages=USER)
        raise AssertionError("an unknown model was taken")
    except openai.NotFoundError as e:
        assert e.code == "model_not_found"


def responses():
    ask = dict(model=MODEL, input="Say something.", instructions="Be brief.", max_output_tokens=8, extra_body={"seed": 2})
    r = client.responses.create(**ask)
    assert r.output_text and r.usage.output_tokens > 0
    kinds, text = [], ""
    for event in client.responses.create(**ask, stream=True):
        kinds.append(event.type)
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == r.output_text
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    with client.responses.stream(**ask) as stream:
        ends = [e for e in stream if e.type in ("response.completed", "response.incomplete")]
    # The helper keeps whole answers only; one that was cut stands in its last event.
    assert len(ends) == 1 and ends[0].response.output_text == text

    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    r = client.responses.create(model=MODEL, input="Weather?", tools=[tool], tool_choice="required", parallel_tool_calls=False)
    call = r.output[0]
    assert call.type == "function_call" and call.name == "weather"
    jsonschema.validate(json.loads(call.arguments), WEATHER)
    items = [{"role": "user", "content": "Weather?"}, call.model_dump(exclude_none=True)]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
    assert client.responses.create(model=MODEL, input=items, tools=[tool], max_output_tokens=4).output
    form = {"format": {"type": "json_schema", "name": "weather", "schema": WEATHER, "strict": True}}
    jsonschema.validate(json.loads(client.responses.create(model=MODEL, input="Weather?", text=form).output_text), WEATHER)
    try:
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_1")
        raise AssertionError("a response that was never stored was continued")
    except openai.BadRequestError as e:
        assert e.param == "previous_response_id"


def messages():
    ask = dict(model=MODEL, messages=USER, system="Be brief.", max_tokens=8, extra_body={"seed": 4})
    m = claude.messages.create(**ask)
    assert m.type == "message" and m.content[0].type == "text" and m.usage.output_tokens > 0
    with claude.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert text == m.content[0].text and last.stop_reason == m.stop_reason
    assert last.usage.output_tokens == m.usage.output_tokens
    n = claude.messages.count_tokens(model=MODEL, messages=USER, system="Be brief.").input_tokens
    assert n == m.usage.input_tokens + (m.usage.cache_read_input_tokens or 0)

    tool = {"name": "weather", "description": "The weather", "input_schema": WEATHER}
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    ask = dict(model=MODEL, messages=USER, max_tokens=2000, tools=[tool], tool_choice=choice, extra_body={"seed": 5})
    m = claude.messages.create(**ask)
    use = m.content[0]
    assert m.stop_reason == "tool_use" and use.type == "tool_use" and use.name == "weather"
    jsonschema.validate(use.input, WEATHER)
    with claude.messages.stream(**ask) as stream:
        assert stream.get_final_message().content[0].input == use.input
    back = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    turns = USER + [{"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]}, {"role": "user", "content": [back]}]
    assert claude.messages.create(model=MODEL, messages=turns, max_tokens=5, tools=[tool]).usage.output_tokens > 0
    try:
        claude.messages.create(model=MODEL, messages=USER, max_tokens=5, thinking={"type": "enabled", "budget_tokens": 1024})
        raise AssertionError("a budget that nobody keeps was taken")
    except anthropic.BadRequestError as e:
        assert "budget_tokens" in str(e)
    try:
        claude.messages.create(model="nobody", messages=USER, max_tokens=5)
        raise AssertionError("an unknown model was taken")
    except anthropic.NotFoundError as e:
        assert e.body["error"]["type"] == "not_found_error"


def post(path, body):
    request = urllib.request.Request(BASE + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as r:
        return [json.loads(line) for line in r.read().splitlines()]


def others():
    lines = post("/api/chat", {"model": f"{MODEL}:latest", "messages": USER, "options": {"num_predict": 4}})
    assert lines[-1]["done"] and lines[-1]["eval_count"] > 0
    ids = post("/tokenize", {"prompt": "a cat"})[0]["tokens"]
    assert post("/detokenize", {"tokens": ids})[0]["prompt"].endswith("a cat")


def constrained():
    for i in range(CONSTRAINED):
        schema = SCHEMAS[i % len(SCHEMAS)]
        prompt = [{"role": "user", "content": f"Give me example number {i} as JSON."}]
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        c = client.chat.completions.create(
            model=MODEL, messages=prompt, response_format=form, seed=i, temperature=1.0 + (i % 3) / 2, max_tokens=2000)
        assert c.choices[0].finish_reason == "stop", c
        jsonschema.validate(json.loads(c.choices[0].message.content), schema)


for part in [openai_routes, responses, messages, others, constrained]:
    part()
    print(f"{part.__name__}: ok", flush=True)
