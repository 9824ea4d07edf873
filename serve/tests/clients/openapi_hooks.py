"""What schemathesis cannot know: which bytes are a picture, and that a millisecond is little for an answer."""

import base64

import schemathesis
from hypothesis import strategies as st

# Two pixels, so that a failure is read easily.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGM4oRHFJfILAAgnAmOlV8P4AAAAAElFTkSuQmCC"
)
FILES = st.just(PNG)
TIMEOUT, ENOUGH = "x-request-timeout-ms", 20_000

schemathesis.openapi.format("binary", FILES)
schemathesis.openapi.format("byte", FILES.map(lambda file: base64.b64encode(file).decode()))
for media in ("image/jpeg", "image/png", "image/webp"):
    schemathesis.openapi.media_type(media, FILES)


@schemathesis.hook
def before_call(context, case, kwargs):
    """A deadline that is allowed and short is kept by refusing (504), which is right and is not what is tested."""
    asked = str((case.headers or {}).get(TIMEOUT, ""))
    if asked.isascii() and asked.isdigit() and 0 < int(asked) < ENOUGH:
        case.headers[TIMEOUT] = str(ENOUGH)
