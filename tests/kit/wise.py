"""Records of WISE's form, of each field a few."""

import json

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
