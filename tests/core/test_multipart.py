import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llamaswap.errors import BadRequest
from llamaswap.relay import multipart
from llamaswap.relay.multipart import MAX_PARTS, ModelField, boundary_of, find_model, rewrite

TYPE = "multipart/form-data; boundary=XX"


def part(name: str, content: bytes, extra: str = "", boundary: str = "XX") -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes, boundary: str = "XX") -> bytes:
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


MODEL = part("model", b"whisper")
FILE = part("file", bytes(range(256)) * 4, '; filename="a.wav"\r\nContent-Type: audio/wav')


def value(body: bytes, content_type: str = TYPE) -> str:
    found = find_model(body, content_type)
    assert find_model(bytearray(body), content_type) == found
    assert body[found.start : found.end].decode() == found.value
    return found.value


def refusal(body: bytes, content_type: str = TYPE) -> str:
    with pytest.raises(BadRequest) as caught:
        find_model(bytearray(body), content_type)
    return caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        form(MODEL),
        form(FILE, MODEL),
        form(MODEL, FILE),
        form(part("prompt", b""), MODEL),
        form(part("language", b"model"), MODEL),
        form(part("file", b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nx', "; filename=a"), MODEL),
        form(part("file", b"\r\n--X\r\n--XXX\r\n--XX-\r\n-XX\r\n--XXy", '; filename="a"'), MODEL),
        form(part("file", b"--XXX--", '; filename="a"'), MODEL),
        form(part("model", b"not this one", '; filename="model"'), MODEL),
        form(MODEL, part("model", b"nor this one", '; filename=""')),
        form(MODEL, part("model", b"nor this one", "; filename*=UTF-8''a")),
        form(MODEL, part("Model", b"large"), part("models", b"large")),
        form(part("model", b"early"), FILE, MODEL),
        form(part("f", b"x", '; filename="a;name=\\"b\\"; model"'), MODEL),
        form(part("f", "ü".encode(), '; filename="größe.wav"'), MODEL),
        b"preamble\r\n" + form(MODEL),
        b"--XXX is no boundary\r\n" + form(MODEL),
        b"\r\n" + form(MODEL),
        form(MODEL) + b"epilogue\r\n--XX\r\n",
        form(MODEL).removesuffix(b"\r\n"),
        form(MODEL).replace(b"--XX\r\n", b"--XX \t\r\n"),
        form(MODEL, FILE).replace(b"Content-Disposition", b"content-DISPOSITION"),
        form(MODEL).replace(b"form-data; name=", b"FORM-DATA;NAME = "),
        form(MODEL).replace(b'"model"', b"model"),
        form(MODEL).replace(b'"model"', b'"m\\odel"'),
        form(MODEL).replace(b'; name="model"', b';\r\n name="model"'),
        form(MODEL).replace(b'"model"', b'"model";'),
        form(MODEL).replace(b"\r\n\r\n", b"\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"),
        form(MODEL).replace(b"Content-D", b"Content-Transfer-Encoding: 8bit\r\nContent-D"),
        form(MODEL).replace(b"\r\n", b"\n"),
        form(part("x", b""), MODEL).replace(b"\r\n\r\n\r\n", b"\r\n\r\n"),
    ],
)
def test_finds_the_model(body: bytes) -> None:
    assert value(body) == "whisper"


@pytest.mark.parametrize("name", ["größe", "模型\U0001f600", "a/b:c d", " padded ", "two\r\nlines", "x--XX", "-"])
def test_the_value_is_taken_as_it_is(name: str) -> None:
    assert value(form(part("model", name.encode()), FILE)) == name


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=XX", b"XX"),
        ('multipart/form-data; boundary="XX"', b"XX"),
        ('Multipart/Form-Data; BOUNDARY="XX"', b"XX"),
        ("multipart/form-data;boundary=XX", b"XX"),
        ("multipart/form-data ; charset=utf-8 ; boundary = XX ", b"XX"),
        ("multipart/form-data; boundary=XX; charset=utf-8", b"XX"),
        ("multipart/form-data; boundary=XX;", b"XX"),
        ("multipart/form-data;; boundary=XX", b"XX"),
        ('multipart/form-data; boundary="a b;c\\"d"', b'a b;c"d'),
        ("multipart/form-data; boundary=----WebKitForm7MA4YWxkTrZu0gW", b"----WebKitForm7MA4YWxkTrZu0gW"),
        ("multipart/form-data; boundary==_a=b'()+,/:?", b"=_a=b'()+,/:?"),
        ("multipart/form-data; boundary=gr\xf6\xdfe", b"gr\xf6\xdfe"),
    ],
)
def test_boundaries(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary
    body = form(MODEL, FILE).replace(b"--XX", b"--" + boundary)
    assert value(body, content_type) == "whisper"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        'multipart/form-data; boundary="XX',
        "multipart/form-data; boundary=XX; boundary=YY",
        "multipart/form-data; charset=utf-8",
    ],
)
def test_no_usable_boundary(content_type: str) -> None:
    assert "without a usable boundary" in refusal(form(MODEL), content_type)


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/mixed; boundary=XX", "boundary=XX"])
def test_another_content_type(content_type: str) -> None:
    assert "multipart/form-data body is expected" in refusal(form(MODEL), content_type)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "boundary of its Content-Type is not in it"),
        (b"model=whisper", "boundary of its Content-Type is not in it"),
        (form(MODEL, boundary="XX").replace(b"XX", b"YY"), "boundary of its Content-Type is not in it"),
        (b"x" + form(), "boundary of its Content-Type is not in it"),
        (b"--XX", "boundary of its Content-Type is not in it"),
        (MODEL, "unterminated"),
        (MODEL + FILE, "unterminated"),
        (form(MODEL)[:-4], "unterminated"),
        (form(MODEL)[:-3], "unterminated"),
        (MODEL.removesuffix(b"\r\n"), "unterminated"),
        (MODEL + b"--XX\r\n", "header lines do not end"),
        (MODEL + b"--XX\r\nContent-Disposition: form-data", "header lines do not end"),
        (b"--XX\r\n" + b"A: b\r\n" * 10_000 + b"\r\n\r\n" + form(MODEL), "header lines do not end"),
        (form(MODEL, b"--XX\r\nContent-Type: text/plain\r\n\r\nx\r\n"), "needs one Content-Disposition"),
        (form(MODEL, b"--XX\r\n\r\nx\r\n"), "header lines do not end"),
        (form(MODEL.replace(b"Content", b"Content-Disposition: form-data; name=x\r\nContent")), "needs one"),
        (form(MODEL.replace(b"form-data", b"attachment")), "names no field"),
        (form(MODEL.replace(b'; name="model"', b"")), "names no field"),
        (form(MODEL.replace(b'"model"', b'"model')), "names no field"),
        (form(MODEL.replace(b'"model"', b'"model"; name="other"')), "names no field"),
        (form(), "has no 'model' field"),
        (form(FILE), "has no 'model' field"),
        (form(part("model", b"x", '; filename="x"')), "has no 'model' field"),
        (form(part("model", b"")), "'model' is empty"),
        (form(part("model", b"\xff")), "not UTF-8"),
        (form(MODEL, *[part("x", b"")] * MAX_PARTS), "more than 1000 parts"),
    ],
)
def test_refuses_with_a_reason(body: bytes, says: str) -> None:
    assert says in refusal(body)


def test_rewrites_without_touching_anything_else() -> None:
    body = bytearray(form(FILE, MODEL, part("prompt", b"hi")))
    segments = rewrite(body, find_model(body, TYPE), "openai/größe")
    assert b"".join(segments) == form(FILE, part("model", "openai/größe".encode()), part("prompt", b"hi"))
    assert all(isinstance(s, memoryview) and s.obj is body for s in segments if len(s) > 20)


def test_the_last_duplicate_counts_and_all_are_rewritten() -> None:
    body = form(part("model", b"one"), FILE, part("model", b""), part("model", b"three"), FILE)
    found = find_model(body, TYPE)
    assert found.value == "three" and len(found.earlier) == 2
    new = part("model", b"new")
    assert b"".join(rewrite(body, found, "new")) == form(new, FILE, new, new, FILE)


def test_a_file_that_nearly_holds_the_boundary_is_searched_once() -> None:
    near = b"\r\n--" + b"-" * 60
    boundary = "-" * 60 + "end"
    body = form(
        part("file", near * 20_000, '; filename="a"', boundary),
        part("model", b"m", boundary=boundary),
        boundary=boundary,
    )
    assert value(body, f"multipart/form-data; boundary={boundary}") == "m"


CONTENT = st.binary(max_size=40) | st.lists(
    st.sampled_from([b"\r\n", b"--", b"XX", b"\n", b"-", b"model", b'name="model"', b"\r\n\r\n"]), max_size=10
).map(b"".join)


@given(
    st.lists(st.tuples(st.sampled_from(["model", "file", "prompt"]), CONTENT, st.booleans()), max_size=6),
    st.text(max_size=8),
)
def test_any_form_is_read_as_it_was_written(fields: list[tuple[str, bytes, bool]], new: str) -> None:
    # A writer picks a boundary that stands in none of the contents.
    assume(all(b"\r\n--XX" not in b"\r\n" + content + b"\r\n" for _, content, _ in fields))

    def write(replacement: bytes | None) -> bytes:
        parts = []
        for name, content, is_file in fields:
            if name == "model" and not is_file and replacement is not None:
                content = replacement
            parts.append(part(name, content, '; filename="f"' if is_file else ""))
        return form(*parts)

    body = write(None)
    models = [content for name, content, is_file in fields if name == "model" and not is_file]
    try:
        expected = models[-1].decode() if models else ""
    except UnicodeDecodeError:
        expected = ""
    if not expected:
        assert "no model id" in refusal(body)
        return
    found = find_model(bytearray(body), TYPE)
    assert found.value == expected
    assert b"".join(rewrite(body, found, new)) == write(new.encode())


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(noise: bytes) -> None:
    for body in (
        noise,
        form(MODEL) + noise,
        MODEL + noise,
        form(MODEL)[: len(noise)] + noise,
        b"--XX\r\n" + noise,
    ):
        try:
            found = find_model(body, TYPE)
        except BadRequest as error:
            assert error.message
        else:
            assert isinstance(found, ModelField) and 0 <= found.start < found.end <= len(body)


@given(st.text(max_size=40))
def test_any_content_type_is_read_or_refused(noise: str) -> None:
    for content_type in (noise, "multipart/form-data;" + noise, TYPE + noise):
        try:
            assert boundary_of(content_type)
        except BadRequest:
            pass


def test_the_limit_on_header_lines_leaves_room_for_real_ones() -> None:
    long_name = "n" * (multipart.MAX_PART_HEAD_BYTES - 200)
    assert value(form(part("file", b"x", f'; filename="{long_name}"'), MODEL)) == "whisper"
