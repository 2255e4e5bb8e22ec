"""Records of WISE's form, of each field a few."""

import base64
import json
import struct
import zlib

from asft_lightning.metrics import WISE_VERSIONS

CATEGORIES = {
    "culture": "Cultural knowledge",
    "time": "time",
    "space": "Space",
    "biology": "Biology",
    "physics": "Physical Knowledge",
    "chemistry": "Chemistry",
}


def record(number, field, subcategory="Some"):
    """One record as the benchmark's files have it."""
    return {
        "Prompt": f"prompt {number}",
        "Explanation": f"explanation {number}",
        "Category": CATEGORIES[field],
        "Subcategory": subcategory,
        "prompt_id": number,
    }


def records(version="legacy", each=2):
    """The first so many of each field; all 1000 where ``each`` is None. Even ids are of one subcategory, odd of another."""
    groups = WISE_VERSIONS[version].groups.items()
    return [record(i, field, ("Even", "Odd")[i % 2]) for field, ids in groups for i in ids[:each]]


def save_records(path, values):
    path.write_text(json.dumps(values, ensure_ascii=False))
    return str(path)


def png(number, width=2):
    """An image whose first pixel is its number: a server that sees it can say which it is."""
    pixels = b"".join(b"\x00" + number.to_bytes(3, "big") * width for _ in range(width))
    header = struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def save_images(folder, numbers):
    folder.mkdir()
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))
    return str(folder)


def seen(body):
    """The number in the image of a request, read from its pixels; and how often it has been asked before."""
    question, *further = body["messages"]
    text, image = question["content"]
    kind, _, content = image["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64" and text["type"] == "text" and image["type"] == "image_url"
    raw = base64.b64decode(content)
    start = raw.index(b"IDAT") + 4
    return int.from_bytes(zlib.decompressobj().decompress(raw[start:])[1:4], "big"), len(further) // 2


def rating_of(number):
    """What the server of a test says of an image, on three axes."""
    return {"consistency": number % 3, "realism": (number // 3) % 3, "aesthetics": (number // 7) % 3}


def score_of(number):
    """The WiScore of that, by hand."""
    rating = rating_of(number)
    return (0.7 * rating["consistency"] + 0.2 * rating["realism"] + 0.1 * rating["aesthetics"]) / 2
