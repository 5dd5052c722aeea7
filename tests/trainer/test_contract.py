"""The records survive their own JSON, and nothing else passes for one."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.conftest import DIGEST, REPOSITORY, make_spec
from trainer.contract import (
    Check,
    ContractError,
    Control,
    Dataset,
    Epoch,
    Flag,
    Gpu,
    Machine,
    Metric,
    Model,
    Phase,
    Precision,
    Provenance,
    RunResult,
    RunSpec,
    Status,
    Window,
    WindowKind,
    dumps,
    encode,
    loads,
)
from trainer.contract.schema import RECORDS, schema_of

TEXT = st.text(max_size=20)
NUMBER = st.floats(allow_nan=False)
COUNT = st.integers(0, 10**9)


@st.composite
def specs(draw) -> RunSpec:
    ranks = draw(st.integers(1, 16))
    nodes = draw(st.sampled_from([n for n in range(1, ranks + 1) if ranks % n == 0]))
    batch, accumulation = draw(st.integers(1, 512)), draw(st.integers(1, 4))
    length = draw(st.integers(1, 1000))
    by_epochs = draw(st.booleans())
    return RunSpec(
        name=draw(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,40}\Z")),
        model=draw(st.sampled_from(Model)),
        dataset=draw(st.sampled_from(Dataset)),
        dataset_digest=DIGEST,
        ranks=ranks,
        nodes=nodes,
        per_rank_batch=batch,
        accumulation=accumulation,
        global_batch=batch * ranks * accumulation,
        precision=draw(st.sampled_from(Precision)),
        epochs=length if by_epochs else 0,
        steps=0 if by_epochs else length,
        learning_rate=draw(st.floats(0, 10)),
        controls=tuple(draw(st.lists(st.sampled_from(Control), unique=True))),
        loss_reference=draw(st.none() | st.floats(0.1, 9)),
    )


WINDOWS = st.builds(
    Window,
    kind=st.sampled_from(WindowKind),
    index=COUNT,
    steps=COUNT,
    images=COUNT,
    seconds_by_rank=st.lists(NUMBER, min_size=1, max_size=3).map(tuple),
    foreign_load=NUMBER,
)
EPOCHS = st.builds(
    Epoch,
    index=COUNT,
    steps=COUNT,
    images=COUNT,
    seconds=NUMBER,
    train_loss=NUMBER,
    train_accuracy=NUMBER,
    test_accuracy=st.none() | NUMBER,
)
MACHINES = st.builds(
    Machine,
    hostname=TEXT,
    os=TEXT,
    kernel=TEXT,
    cpu_model=TEXT,
    cores_total=COUNT,
    cores_usable=COUNT,
    memory_bytes=COUNT,
    gpus=st.lists(st.builds(Gpu, name=TEXT, memory_bytes=COUNT), max_size=1).map(tuple),
)
PROVENANCES = st.builds(
    Provenance,
    **{f.name: TEXT for f in dataclasses.fields(Provenance) if f.type == "str"},
    git_dirty=st.booleans(),
    argv=st.lists(TEXT, max_size=3).map(tuple),
)
RESULTS = st.builds(
    RunResult,
    run_id=TEXT,
    spec_id=TEXT,
    status=st.sampled_from(Status),
    phase=st.sampled_from(Phase),
    reason=TEXT,
    sanity=st.lists(st.builds(Check, name=TEXT, passed=st.booleans()), max_size=2).map(tuple),
    flags=st.lists(st.sampled_from(Flag), max_size=2).map(tuple),
    flag_details=st.lists(TEXT, max_size=2).map(tuple),
    metrics=st.lists(st.builds(Metric, name=TEXT, value=NUMBER, unit=TEXT), max_size=2).map(tuple),
    windows=st.lists(WINDOWS, max_size=2).map(tuple),
    epochs=st.lists(EPOCHS, max_size=2).map(tuple),
    parameter_hash=TEXT,
    machines=st.lists(MACHINES, max_size=2).map(tuple),
    provenance=st.none() | PROVENANCES,
)


@given(specs())
def test_spec_round_trip_keeps_value_and_identity(spec):
    back = loads(RunSpec, dumps(spec))
    assert back == spec
    assert back.spec_id == spec.spec_id


@given(RESULTS)
def test_result_round_trip(result):
    assert loads(RunResult, dumps(result)) == result


@given(specs(), RESULTS)
def test_records_fit_their_schema(spec, result):
    for record in (spec, result):
        jsonschema.Draft202012Validator(schema_of(type(record))).validate(encode(record))


@given(specs(), st.integers(0, 2**31))
def test_seed_changes_the_spec_but_not_the_configuration(spec, seed):
    other = dataclasses.replace(spec, seed=seed)
    assert other.config_id == spec.config_id
    assert (other.spec_id == spec.spec_id) == (seed == spec.seed)


@given(RESULTS, st.data())
def test_any_truncation_is_refused(result, data):
    text = dumps(result)
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(ContractError):
        loads(RunResult, text[:cut])


def test_nan_survives_as_a_named_string():
    epoch = Epoch(
        index=0, steps=1, images=1, seconds=1.0, train_loss=float("nan"), train_accuracy=0
    )
    assert json.loads(dumps(epoch))["train_loss"] == "nan"
    assert str(loads(Epoch, dumps(epoch)).train_loss) == "nan"


def _changed(**changes) -> str:
    return json.dumps(encode(make_spec()) | changes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (_changed(lerning_rate=1.0), "did you mean 'learning_rate'"),
        (_changed(schema_version=2), "this Trainyard reads version 1"),
        (_changed(schema_version=None), "this Trainyard reads version 1"),
        (_changed(ranks="2"), "must be a whole number, not str"),
        (_changed(ranks=True), "must be a whole number, not bool"),
        (_changed(ranks=1.0), "must be a whole number, not float"),
        (_changed(learning_rate="fast"), "must be a number, not str"),
        (_changed(learning_rate="nan"), "must be 0 or more, and finite"),
        (_changed(learning_rate="inf"), "must be 0 or more, and finite"),
        (_changed(model="resnet50"), "must be one of resnet18, resnet18_small"),
        (_changed(dataset="imagenet"), "must be one of digits, cifar10, synthetic"),
        (_changed(precision="fp8"), "must be one of fp32, bf16, fp16"),
        (_changed(controls="no_sync"), "must be a list"),
        (_changed(controls=["no_sync", "no_sync"]), "names one twice"),
        (_changed(global_batch=17), "16 x 1 x 1 = 16"),
        (_changed(ranks=3, nodes=2, global_batch=48), "must be divisible by nodes = 2"),
        (_changed(ranks=2, global_batch=32, distributed=False), "Set distributed = true"),
        (_changed(dataset_digest="abc"), "needs the SHA-256"),
        (_changed(steps=5), "give exactly one of them"),
        (_changed(epochs=0), "give exactly one of them"),
        (_changed(name="a b"), "must be 1 to 100 of"),
        (_changed(precision="fp16", device="cpu"), "needs a GPU"),
        (_changed(distributed=False, controls=["no_sync"]), "no_sync needs distributed"),
        (_changed(loss_reference="inf"), "must be a finite loss"),
        ("[]", "must be a JSON object"),
        ('{"schema_version": 1}', "missing name"),
        ('{"schema_version": 1, "name": "a", "name": "b"}', "given twice"),
        ('{"schema_version": 1, "learning_rate": NaN}', "not a JSON document"),
        (b"\xff\xfe{}", "not a JSON document"),
        ("", "not a JSON document"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_bad_spec_is_refused_with_the_rule(text, says):
    with pytest.raises(ContractError, match=r".+") as caught:
        loads(RunSpec, text, "spec.json")
    assert says in str(caught.value)
    assert "spec.json" in str(caught.value) or "given twice" in says


def test_python_callers_cannot_pass_strings_for_members():
    with pytest.raises(ContractError, match=r"Choose from Model\.RESNET18, Model\.RESNET18_SMALL"):
        RunSpec(name="x", dataset=Dataset.SYNTHETIC, epochs=1, model="resnet18")


def test_a_window_needs_a_rank():
    with pytest.raises(ContractError, match="seconds of every rank"):
        Window(kind=WindowKind.TRAIN, index=0, steps=1, images=1, seconds_by_rank=())


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_committed_schema_is_the_generated_one(record):
    path = REPOSITORY / "docs/schema" / f"{record.__name__}.schema.json"
    assert path.read_text() == json.dumps(schema_of(record), indent=2) + "\n", (
        "run: python -m trainer.contract.schema"
    )


def test_contract_needs_the_standard_library_only():
    for path in (REPOSITORY / "trainer/contract").glob("*.py"):
        assert "import torch" not in Path(path).read_text()
