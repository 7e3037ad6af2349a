"""The official OpenAI client, unchanged: models, chat, streaming chat, a refusal. Usage: openai_client.py BASE_URL"""
import sys
import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="any", max_retries=0)
models = [model.id for model in client.models.list()]
assert "trellis-tiny" in models, models
messages = [{"role": "user", "content": "What is the capital of France?"}]

whole = client.chat.completions.create(model=models[0], messages=messages, max_tokens=10, temperature=0)
assert whole.choices[0].message.content, whole
assert 0 < whole.usage.completion_tokens <= 10, whole.usage

stream = client.chat.completions.create(
    model=models[0], messages=messages, max_tokens=10, temperature=0, stream=True, stream_options={"include_usage": True}
)
text, reasons, usage = "", [], None
for chunk in stream:
    if chunk.usage:
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        if choice.finish_reason:
            reasons.append(choice.finish_reason)
assert text == whole.choices[0].message.content, (text, whole)
assert len(reasons) == 1 and usage.completion_tokens == whole.usage.completion_tokens, (reasons, usage)

try:
    client.chat.completions.create(model="no-such-model", messages=messages)
    raise AssertionError("an unknown model was accepted")
except openai.NotFoundError as error:
    assert "no-such-model" in str(error), error
print("ok:", text)
