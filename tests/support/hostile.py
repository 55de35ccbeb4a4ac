"""About 300 uploads that somebody who means harm, or a broken program, might send."""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.support.picture_folders import picture

MEGABYTE = 2**20
SCRIPT = (
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script></svg>"
)
DEVICES = ("CON", "nul", "Aux", "PRN", "COM1", "com9", "LPT1", "lpt3", "NUL ", "CONIN$")


def png(number: int = 500, **options: object) -> bytes:
    made = io.BytesIO()
    picture(number).save(made, "PNG", **options)
    return made.getvalue()


def jpeg(number: int = 500, exif: bytes = b"", **options: object) -> bytes:
    made = io.BytesIO()
    picture(number).save(made, "JPEG", exif=exif, **options)
    return made.getvalue()


def chunk(content: bytes) -> bytes:
    end = struct.pack(">I", zlib.crc32(content))
    return struct.pack(">I", len(content) - 4) + content + end


def png_of(width: int, height: int, data: bytes = b"\0", *more: bytes) -> bytes:
    """A PNG that says its size itself."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(head), *map(chunk, more), chunk(b"IDAT" + zlib.compress(data)), chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = 8) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return made.getvalue()


def link(name: str, target: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.create_system = 0o120777 << 16, 3
    return info, target


def lying(content: bytes, size: int) -> bytes:
    """A zip whose member says that it is `size` bytes large."""
    made = bytearray(zipped(("a.png", content)))
    start = made.rindex(b"PK\x01\x02")
    struct.pack_into("<I", made, start + 24, size)
    struct.pack_into("<I", made, 22, size)
    return bytes(made)


def names() -> Iterator[str]:
    yield from ("../x.png", "../../../../tmp/x.png", "/proc/x.png", "a/../../x.png", "a/./x.png")
    yield from (
        "C:\\x.png",
        "C:x.png",
        "\\\\host\\x.png",
        "..\\x.png",
        "a\\..\\..\\x.png",
        "//x.png",
    )
    yield from (
        "a//b.png",
        "",
        " ",
        "/",
        ".",
        "..",
        ".png",
        ".hidden.png",
        "a/.git/x.png",
        "~$x.png",
    )
    yield from (
        "x.png/",
        "x\0.png",
        "x.png\0.svg",
        "x\n.png",
        "x\r\n.png",
        "x\t.png",
        "\x1b[31mx.png",
    )
    yield from ("x\u202egnp.exe.png", "x\u200b.png", "\ufeffx.png", "x\u2028.png", "x\ud800.png")
    yield from ("x" * 300 + ".png", "é" * 120 + ".png", "a/" * 20 + "x.png", "x" * 5000, "x.png ")
    yield from (
        " x.png",
        "x.",
        "x.png.",
        "a /x.png",
        "x?.png",
        "x*.png",
        "x|y.png",
        'x".png',
        "<x>.png",
    )
    yield from (f"{device}.png" for device in DEVICES)
    yield from (f"{device}/x.png" for device in DEVICES)
    yield from ("p0.png/x.png", "a/b.JPG/x.png", "metadata.csv/x.png")
    yield from (f"a/{device}.tar.png" for device in DEVICES)
    yield from ("Thumbs.db", "desktop.ini", "x.png.tmp", "__MACOSX/x.png", "x.bak")
    yield from (
        "x.exe",
        "x.svg",
        "x.html",
        "x.php",
        "x.py",
        "x.sh",
        "x.gif",
        "x",
        "x.png.exe",
        "x.tar",
    )
    yield from ("x.pkl", "x.dvc", "data.dvc", "x.yaml", ".dvcignore", ".gitattributes", "x.tar.gz")


def images() -> Iterator[tuple[str, bytes]]:
    whole = png()
    yield "large.png", png_of(20_000, 10_000)  # 200 megapixels
    yield "long.png", png_of(2**31 - 1, 1)
    yield "both.png", png_of(2**31 - 1, 2**31 - 1)
    yield "none.png", png_of(0, 0)
    yield "empty.png", b""
    yield "bomb.png", png_of(9_000, 9_000, bytes(9_000 * 4 * 100))  # ends early
    yield "text.png", png_of(40, 36, b"\0", b"zTXtx\0\0" + zlib.compress(bytes(64 * MEGABYTE)))
    yield "profile.png", png_of(40, 36, b"\0", b"iCCPx\0\0" + zlib.compress(bytes(64 * MEGABYTE)))
    yield "svg.png", SCRIPT
    yield "svg.jpg", b"\xff\xd8" + SCRIPT
    yield "html.webp", b"<html><script>alert(1)</script>"
    yield "eps.tif", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield "script.bmp", b"#!/bin/sh\ntouch /tmp/hacked\n"
    yield "pickle.png", b"cos\nsystem\n(S'touch /tmp/hacked'\ntR."
    yield "zip.png", zipped(("../x.png", whole))
    yield "elf.png", b"\x7fELF" + bytes(200)
    yield "pdf.jpg", b"%PDF-1.7\n1 0 obj << /JS (app.alert(1)) >> endobj"
    yield "mark.txt", b"\xff\xfe" + b"\0" * 99
    yield "metadata.csv", b"file_name,text\n../../etc/passwd,x\n"
    yield "metadata.jsonl", b"[" * 200_000
    for size in (8, 20, 33, 40, 60, len(whole) // 2, len(whole) - 13, len(whole) - 4):
        yield f"cut{size}.png", whole[:size]
    photo = jpeg()
    for size in (2, 4, 20, 200, len(photo) // 2, len(photo) - 100):
        yield f"cut{size}.jpg", photo[:size]
    tiff = b"Exif\0\0MM\0*\0\0\0\x08"
    for count in (1, 200, 0xFFFF):
        yield f"exif{count}.jpg", jpeg(501, exif=tiff + struct.pack(">H", count))
    yield "exifloop.jpg", jpeg(501, exif=tiff + b"\0\x01\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\0")
    yield (
        "exifbig.jpg",
        jpeg(501, exif=tiff + b"\0\x01\x01\x0e\0\2\xff\xff\xff\xff\0\0\0\x0a\0\0\0\0"),
    )
    noise = random.Random(7)
    for number in range(120):  # bits that fell over
        broken = bytearray(whole if number % 2 else photo)
        for _ in range(1 + number % 7):
            broken[noise.randrange(8, len(broken))] ^= 1 << noise.randrange(8)
        yield f"noise{number}.{'png' if number % 2 else 'jpg'}", bytes(broken)
    frames = io.BytesIO()
    picture(1).save(frames, "PNG", save_all=True, append_images=[picture(2)])
    yield "moves.png", frames.getvalue()
    gif = io.BytesIO()
    picture(1).save(gif, "GIF")
    yield "gif.png", gif.getvalue()
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "PNG")
    yield "small.png", small.getvalue()


def zips() -> Iterator[tuple[str, bytes]]:
    inner = zipped(("a.png", bytes(10 * MEGABYTE)))
    yield "bomb.zip", zipped(("a.png", bytes(60 * MEGABYTE)))
    yield "bombs.zip", zipped(*((f"{n}.png", bytes(4 * MEGABYTE)) for n in range(8)))
    yield "nested.zip", zipped(("b.zip", inner), ("c.zip", zipped(("d.zip", inner))))
    yield "says less.zip", lying(bytes(40 * MEGABYTE), 100)
    yield "says more.zip", lying(b"x", 2**31)
    yield "many.zip", zipped(*((f"{n}.png", b"") for n in range(6000)), method=0)
    yield "directory.zip", zipped(*((f"{'x' * 250}{n}.png", b"") for n in range(9000)), method=0)
    yield "links.zip", zipped(link("a.png", b"/etc/passwd"), link("b", b".."), ("b/c.png", b"x"))
    yield "paths.zip", zipped(*((name, b"x") for name in names() if "\ud800" not in name and name))
    yield "same.zip", zipped(*((name, SCRIPT) for name in ("a.png", "A.png", "a.PNG")))
    yield "lzma.zip", zipped(("a.png", b"x"), method=zipfile.ZIP_LZMA)
    yield "bzip2.zip", zipped(("a.png", bytes(MEGABYTE)), method=zipfile.ZIP_BZIP2)
    yield "empty.zip", zipped()
    yield "no.zip", b"PK\x03\x04" + bytes(100)
    yield "text.zip", b"not a zip"
    yield "nothing.zip", b""
    whole = zipped(("a.png", b"x" * 1000))
    yield "cut.zip", whole[:-30]
    yield "twice.zip", whole + whole[:-10]
    locked = bytearray(whole)
    locked[6] |= 1
    locked[locked.rindex(b"PK\x01\x02") + 8] |= 1
    yield "locked.zip", bytes(locked)
    noise = random.Random(8)
    for number in range(20):
        broken = bytearray(whole)
        for _ in range(3):
            broken[noise.randrange(len(broken))] ^= 1 << noise.randrange(8)
        yield f"noise{number}.zip", bytes(broken)


def for_images() -> Iterator[tuple[str, bytes]]:
    """(name, content): none of them may be kept."""
    yield from ((name, SCRIPT) for name in names())
    yield from images()
    yield from zips()


def records() -> Iterator[tuple[str, bytes]]:
    """The same for a language model."""
    plain = {"instruction": "a question", "output": "an answer"}
    yield "deep.jsonl", b"[" * 500_000 + b"]" * 500_000
    yield "deeper.json", b'{"instruction":' * 100_000
    yield "line.jsonl", json.dumps({**plain, "wrong": "x" * 20 * MEGABYTE}).encode()
    yield "digits.jsonl", b'{"instruction": ' + b"9" * MEGABYTE + b"}"
    yield "mail.jsonl", json.dumps({**plain, "output": "a@b.ng " * 1000}).encode()
    yield "twice.jsonl", b'{"instruction": "a", "instruction": "b", "output": "c"}'
    yield "nan.jsonl", b'{"instruction": "a", "output": NaN}'
    yield "half.jsonl", b'{"instruction": "a\\ud800", "output": "c"}'
    yield "control.jsonl", b'{"instruction": "a\\u0000\\u001b[31m", "output": "c"}'
    yield "latin.jsonl", '{"instruction": "é", "output": "c"}'.encode("latin-1")
    yield "zero.jsonl", bytes(1000)
    yield "empty.jsonl", b""
    yield "list.json", b"[1, 2, 3, null, true]"
    yield "oneline.jsonl", b'{"instruction": "a", "output": "b"}{"instruction": "c", "output": "d"}'
    yield "roles.jsonl", b'{"messages": [{"role": "tool", "content": "rm -rf /"}]}'
    yield "key.jsonl", json.dumps({**plain, "__proto__": {"x": 1}, "__class__": "os"}).encode()
    yield "pickle.json", b"cos\nsystem\n(S'touch /tmp/hacked'\ntR."
    yield "yaml.json", b"!!python/object/apply:os.system ['touch /tmp/hacked']"
    yield "x.png", SCRIPT
    yield "../x.jsonl", json.dumps(plain).encode()
    yield "bomb.zip", zipped(("a.jsonl", b" " * 60 * MEGABYTE))
