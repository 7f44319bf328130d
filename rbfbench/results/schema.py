"""The JSON Schema of run.json, made from the records; `python -m rbfbench.results.schema` rewrites the shipped file."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from rbfbench.results.records import Run

SCHEMA_FILE = Path(__file__).with_name("run.schema.json")


def run_schema() -> str:
    """Text of run.schema.json (JSON Schema, draft 2020-12)."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "run.json of rbfbench",
        **msgspec.json.schema(Run),
    }
    # The default serves the code that makes a Run; a file must say which version it is.
    run = schema["$defs"]["Run"]
    run["required"] = ["schema_version", *run["required"]]
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(run_schema(), encoding="utf-8")
