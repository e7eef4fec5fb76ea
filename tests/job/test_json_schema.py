"""The job file's JSON Schema, as editors read it."""

from batchchat.job.job import Job
from batchchat.job.json_schema import json_schema


def test_schema_describes_every_key() -> None:
    """Editors show a sentence for each key, refuse unknown ones, and leave the request open."""
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema["properties"]) == list(Job.model_fields)
    assert schema["required"] == ["request"]
    assert schema["additionalProperties"] is False
    sections = schema["$defs"]
    assert set(sections) == {"Input", "Output", "Checkpoint", "Endpoint", "Request", "Limits", "Price", "Notify"}
    assert {name: part["additionalProperties"] for name, part in sections.items()} == {
        name: name == "Request" for name in sections
    }
    keys = [(name, key, value) for name, part in sections.items() for key, value in part["properties"].items()]
    assert [(name, key) for name, key, value in keys if not value.get("description")] == []


def test_schema_has_the_bounds() -> None:
    """What is refused when a job is loaded is refused in the editor too."""
    limits = json_schema()["$defs"]["Limits"]["properties"]
    assert (limits["max_attempts"]["minimum"], limits["max_attempts"]["maximum"]) == (1, 100)
    assert limits["timeout_s"]["exclusiveMinimum"] == 0
    assert limits["concurrency"]["anyOf"] == [
        {"const": "auto", "type": "string"},
        {"type": "integer", "minimum": 1, "maximum": 4096},
    ]
