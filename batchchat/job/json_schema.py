"""The job file's JSON Schema, for editors and validators."""

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from batchchat.job import job


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file."""
    schema = job.Job.model_json_schema()
    for name, section in [("Job", schema), *schema["$defs"].items()]:
        for field, description in _descriptions(getattr(job, name)).items():
            section["properties"][field]["description"] = description
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _descriptions(model: type) -> dict[str, str]:
    """Return the text below each field of a model.

    Pydantic itself would read the source for it as each model is made, at the start of each run.
    """
    definition = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }
