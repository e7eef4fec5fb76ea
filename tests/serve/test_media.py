"""Media parts of the embedded endpoint: it looks at them, says what they are, and refuses what is none."""

import base64
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from batchchat.serve.request.media import MAX_MEDIUM_BYTES
from batchchat.serve.server import EmbeddedEndpoint
from batchchat.serve.settings import ServeSettings


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """A client of one endpoint as it stands."""
    with EmbeddedEndpoint(ServeSettings()) as endpoint, httpx.Client(base_url=endpoint.base_url, timeout=300) as client:
        yield client


def ask(client: httpx.Client, *parts: Any, **more: Any) -> httpx.Response:
    """Ask for one completion about these parts."""
    messages = [{"role": "user", "content": list(parts)}]
    return client.post("/chat/completions", json={"model": "gpt-5", "messages": messages, **more})


def content_of(response: httpx.Response) -> str:
    """Return the answer's text."""
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def text(words: str) -> dict[str, str]:
    """Return a text part."""
    return {"type": "text", "text": words}


def at(kind: str, url: Any) -> dict[str, Any]:
    """Return a part with a URL."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def data_url(mime_type: str, content: bytes) -> str:
    """Return bytes as a data: URL."""
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def drawn(kind: str, width: int = 96, height: int = 64) -> bytes:
    """Return an image of a size, as a file of a kind."""
    file = BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, kind)
    return file.getvalue()


PNG = drawn("PNG")
PICTURE = at("image", data_url("image/png", PNG))
DESCRIBED = f"[stand-in] An image: image/png, 96 x 64 pixels, {len(PNG)} bytes."


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_image_is_looked_at(client: httpx.Client, kind: str) -> None:
    """The answer says the MIME type, the size in pixels and the bytes of an image, whatever kind of file it is."""
    content = drawn(kind, 40, 30)
    mime_type = f"image/{kind.lower()}"
    answer = content_of(ask(client, at("image", data_url(mime_type, content))))
    assert answer == f"[stand-in] An image: {mime_type}, 40 x 30 pixels, {len(content):,} bytes."


def test_video_is_looked_at(client: httpx.Client) -> None:
    """Videos and images are told by type and bytes, in the order of the parts."""
    video = at("video", data_url("video/mp4", bytes(1234)))
    assert content_of(ask(client, video, PICTURE)) == (
        f"[stand-in] A video: video/mp4, 1,234 bytes. {DESCRIBED.removeprefix('[stand-in] ')}"
    )


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (at("image", "https://example.com:8080/a.png?x=1"), "An image at example.com."),
        ({"type": "image_url", "image_url": "HTTP://example.com/a.png"}, "An image at example.com."),
        (at("video", "http://videos.example.org"), "A video at videos.example.org."),
    ],
)
def test_remote_media_are_not_fetched(client: httpx.Client, part: Any, sentence: str) -> None:
    """A URL of http or https is told by its host alone."""
    assert content_of(ask(client, part)) == f"[stand-in] {sentence}"


def test_description_comes_before_the_text(client: httpx.Client) -> None:
    """With a text beside it the description comes first, then what the text would get."""
    assert content_of(ask(client, PICTURE, text("What is it?"))) == f"{DESCRIBED} What is it?"
    assert content_of(ask(client, PICTURE, text("A red kettle."))) == f"{DESCRIBED} A red kettle."


def test_options_win_over_the_description(client: httpx.Client) -> None:
    """Where the conversation lists options, the answer is one of them, image or not."""
    assert content_of(ask(client, PICTURE, text("Answer with one of: cat, dog.\n\nIt shows a dog."))) == "dog"


WHERE = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("part", "description"),
    [
        (at("image", "data:image/png;base64"), " has a data: URL that is not data:<MIME type>;base64,<data>"),
        (at("image", "data:image/png,AAAA"), " has a data: URL that is not data:<MIME type>;base64,<data>"),
        (at("image", "data:image/png;base64,AA"), " has data that is not base64 (Incorrect padding)"),
        (at("image", "data:image/png;base64,"), " has no data"),
        (at("image", data_url("text/plain", PNG)), " has the MIME type 'text/plain'; it must be image/..."),
        (at("image", data_url("image/png", b"hello")), " has 5 bytes that are not an image of any kind known"),
        (at("video", data_url("image/png", PNG)), " has the MIME type 'image/png'; it must be video/..."),
        (at("image", "file:///etc/passwd"), ".image_url must be a data: URL, or one of http or https"),
        (at("image", None), ".image_url must be a data: URL, or one of http or https"),
        ({"type": "image_url", "image_url": 7}, ".image_url must be a data: URL, or one of http or https"),
        (at("image", "https:///a.png"), " has a URL that names no host"),
    ],
)
def test_bad_file_is_refused_in_oxens_words(client: httpx.Client, part: Any, description: str) -> None:
    """What cannot be used is 400 invalid_file_input, with the place and what is wrong."""
    response = ask(client, part)
    assert response.status_code == 400
    assert response.json() == {
        "error": {
            "type": "invalid_file_input",
            "title": "The file input is invalid.",
            "detail": f"{WHERE}{description}",
        },
        "status": "error",
        "status_message": "invalid_file_input",
        "status_description": f"{WHERE}{description}",
    }


def test_part_of_an_unknown_type_is_refused(client: httpx.Client) -> None:
    """A part that is neither text, an image nor a video is 400 invalid_params."""
    response = ask(client, {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_params")
    assert response.json()["error"]["detail"].startswith(f'{WHERE}.type: "input_audio" is not one of "text", ')


@pytest.mark.slow
def test_large_media_are_refused(client: httpx.Client) -> None:
    """One byte above 20 MB is 400; what has just that is answered."""
    video = bytes(MAX_MEDIUM_BYTES + 1)
    refused = ask(client, at("video", data_url("video/mp4", video)))
    assert refused.status_code == 400
    assert refused.json()["status_description"].endswith("has 20,971,521 bytes; at most 20 MB are allowed")
    assert ask(client, at("video", data_url("video/mp4", video[1:]))).status_code == 200


@pytest.mark.slow
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["image", "video"]),
    start=st.sampled_from(["", "data:", "data:image/png;base64,", "http://", "data:video/mp4;base64,"]),
    rest=st.text() | st.binary().map(lambda content: base64.b64encode(PNG[:24] + content).decode()),
)
def test_any_url_is_answered_or_refused(client: httpx.Client, kind: str, start: str, rest: str) -> None:
    """Whatever stands in a URL, the reply is an answer or a 400."""
    assert ask(client, at(kind, start + rest)).status_code in (200, 400)
