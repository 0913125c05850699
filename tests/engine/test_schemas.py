"""Every seventh of the 300 schemas of tests/schemas, answered by the default model: what ends validates."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from tests.engine.real import RealEngine
from tests.engine.test_random_constraints import FORMATS
from tests.schemas.reading import read_schemas

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.errors import InvalidRequest
from takeoff.ipc.messages import Submit
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind, SamplingParams

CUT = {"many fields", "hundred items at least"}  # no document of theirs is so short


def test_answers_of_the_default_model_validate(smollm2_path: Path) -> None:
    engine = RealEngine(smollm2_path, n_slots=8, n_ctx_slot=256)
    try:
        tokenizer = engine.kernels.constraint_tokenizer()
        trial = ConstraintTrial(tokenizer)
        compiler = ConstraintCompiler(tokenizer, engine.kernels.n_vocab)
        prompt = Tokenizer(str(smollm2_path)).tokenize("A record, as JSON:\n", parse_special=False)
        asked = {}
        for number, each in enumerate(read_schemas()[::7]):
            try:
                grammar = trial.grammar(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(each.schema)))
            except InvalidRequest:
                continue
            params = SamplingParams(temperature=0.8, seed=number, max_new_tokens=96)
            engine.engine.submit(Submit(number, prompt, params, ""), compiler.compile(grammar))
            asked[number] = each
        engine.run_until_idle()
        assert len(asked) > 35
        for number, each in asked.items():
            if each.name not in CUT:
                kind = jsonschema.validators.validator_for(
                    each.schema, default=jsonschema.Draft202012Validator
                )
                kind(each.schema, format_checker=FORMATS).validate(json.loads(engine.text(number)))
    finally:
        engine.close()
