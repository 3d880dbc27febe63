"""The ensemble's graph: what Triton would refuse is found in the recipe, and the order is right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Component
from mmdeploy.recipe.wiring import check, topological_order, upstream


@pytest.mark.parametrize(
    ("replacements", "expected"),
    [
        pytest.param(
            [("{pixels: image}", "{pixels: imag}")],
            {
                "recipe.yaml:11 inputs.image": "no component reads the input 'image': Triton refuses it; wire it, or "
                "take it out",
                "recipe.yaml:16 components.image_encoder.inputs.pixels": "nothing writes the tensor 'imag'; did you "
                "mean 'image'? accepted: audio, audio_embedding, image, image_embedding, logits",
            },
            id="a tensor that nobody writes, and an input that nobody reads",
        ),
        pytest.param(
            [("{embedding: audio_embedding}", "{embedding: image_embedding}")],
            {
                "recipe.yaml:23 components.audio_encoder.outputs.embedding": "the tensor 'image_embedding' is already "
                "written by image_encoder.outputs.embedding; give it another name",
                "recipe.yaml:27 components.fusion.inputs.audio": "nothing writes the tensor 'audio_embedding'; did "
                "you mean 'image_embedding'? accepted: audio, image, image_embedding, logits",
            },
            id="two outputs write one tensor",
        ),
        pytest.param(
            [("{embedding: audio_embedding}", "{embedding: audio_embedding, copy: image}")],
            {
                "recipe.yaml:23 components.audio_encoder.outputs.copy": "the tensor 'image' is already written by "
                "input 'image' of the ensemble; give it another name"
            },
            id="an output writes an input",
        ),
        pytest.param(
            [("{embedding: audio_embedding}", "{waveform: audio_embedding}")],
            {
                "recipe.yaml:23 components.audio_encoder.outputs.waveform": "'waveform' is an input of the component "
                "as well, and its graph has one tensor of a name: name the output otherwise, in forward too where that "
                "returns a dict"
            },
            id="one name at both ends of a component",
        ),
        pytest.param(
            [("{pixels: image}", "{pixels: image, context: logits}")],
            {
                "recipe.yaml:14 components.image_encoder": "the components feed each other in a cycle: "
                "image_encoder -> fusion -> image_encoder; an ensemble runs each step once"
            },
            id="a cycle",
        ),
        pytest.param(
            [("{waveform: audio}", "{waveform: audio, before: audio_embedding}")],
            {
                "recipe.yaml:20 components.audio_encoder": "the components feed each other in a cycle: "
                "audio_encoder -> audio_encoder; an ensemble runs each step once"
            },
            id="a component that feeds itself",
        ),
        pytest.param(
            [("  logits: {labels: labels.txt}", "  logit: {}\n  logits: {labels: labels.txt}")],
            {
                "recipe.yaml:30 outputs.logit": "no component writes the output 'logit'; did you mean 'logits'? "
                "accepted: audio_embedding, image_embedding, logits"
            },
            id="an output that nobody writes",
        ),
        pytest.param(
            [("  logits: {labels: labels.txt}", "  logits: {}\n  image: {}")],
            {
                "recipe.yaml:31 outputs.image": "'image' is an input of the ensemble; an output must be written by a "
                "component"
            },
            id="an output that is an input",
        ),
        pytest.param(
            [("audio: audio_embedding}", "audio: audio}")],
            {
                "recipe.yaml:20 components.audio_encoder": "no output of the ensemble depends on this component (it "
                "writes 'audio_embedding'); wire it, or take it out"
            },
            id="a component that runs for nothing",
        ),
        pytest.param(
            [("{embedding: image_embedding}", "{embedding: image_embedding, pooled: image_pooled}")],
            {
                "recipe.yaml:17 components.image_encoder.outputs.pooled": "nothing takes the tensor 'image_pooled': "
                "Triton refuses it; wire it, or make it an output"
            },
            id="an output that nothing takes",
        ),
        pytest.param(
            [
                ("{embedding: image_embedding}", "{embedding: {tensor: image_embedding, dtype: FP32, shape: [64]}}"),
                ("image: image_embedding", "image: {tensor: image_embedding, shape: [32]}"),
                ("audio: {dtype: FP32, shape: [4000]}", "audio: {dtype: FP16, shape: [4000]}"),
                ("{logits: logits}", "{logits: logits, copy: {tensor: copy, dtype: BOOL}}"),
                ("  logits: {l", "  copy: {}\n  logits: {l"),
                ("{waveform: audio}", "{waveform: {tensor: audio, dtype: FP32, shape: [-1]}}"),
            ],
            {
                "recipe.yaml:22 components.audio_encoder.inputs.waveform": "dtype FP32 here, but input 'audio' of "
                "the ensemble says FP16 for the same tensor 'audio'",
                "recipe.yaml:27 components.fusion.inputs.image": "shape [32] here, but "
                "image_encoder.outputs.embedding says [64] for the same tensor 'image_embedding'",
            },
            id="dtypes and shapes that clash",
        ),
        pytest.param(
            [("max_batch_size: 16", "max_batch_size: 0")],
            {
                "recipe.yaml:24 components.audio_encoder.serving.max_batch_size": "0 here, but 'image_encoder' has 8: "
                "an ensemble batches in all of its steps or in none; give every component a max_batch_size above 0, "
                "or 0"
            },
            id="batching and not batching",
        ),
        pytest.param(
            [
                ("max_batch_size: 8", "max_batch_size: 0, dynamic_batching: {}"),
                ("max_batch_size: 16", "max_batch_size: 0"),
                ("outputs: {logits: logits}", "outputs: {logits: logits}\n    serving: {max_batch_size: 0}"),
            ],
            {
                "recipe.yaml:19 components.image_encoder.serving.dynamic_batching": "max_batch_size is 0, nothing "
                "can be grouped: set it, or remove dynamic_batching"
            },
            id="dynamic batching without batches",
        ),
        pytest.param(
            [("name: spoken", "name: fusion")],
            {
                "recipe.yaml:25 components.fusion": "the ensemble is named 'fusion' as well: in Triton both would be "
                "one model; rename one"
            },
            id="a component named as the ensemble",
        ),
        pytest.param(
            [("  fusion:\n", "  Audio_Encoder:\n")],
            {
                "recipe.yaml:25 components.Audio_Encoder": "differs from the component 'audio_encoder' only in case: "
                "one folder on some file systems"
            },
            id="names that differ in case",
        ),
        pytest.param(
            [
                ("data:\n", "data: {}\n"),
                ("  calibration: data.py:calibration\n", ""),
                ("  evaluation: data.py:evaluation\n", ""),
            ],
            {
                "recipe.yaml:16 components.image_encoder.quantize": "quantize static takes its ranges from samples: "
                "name them in data.calibration",
                "recipe.yaml:29 gates": "gates judge on held-out samples: name them in data.evaluation",
            },
            id="samples that are not named",
        ),
        pytest.param(
            [("max_batch_size: 8", "version_policy: {specific: [2, 3]}")],
            {
                "recipe.yaml:19 components.image_encoder.serving.version_policy": "[2, 3] leaves out version 1, the "
                "one that a build publishes: Triton would serve nothing; add 1, or take version_policy out"
            },
            id="a version policy that leaves out what is published",
        ),
        pytest.param(
            [("max_batch_size: 8", "dynamic_batching: {max_queue_size: 4}")],
            {
                "recipe.yaml:19 components.image_encoder.serving.dynamic_batching.max_queue_size": "a limit of 4 "
                "cannot be kept: a component is a step of an ensemble, and when the queue of a step "
                "overflows, Triton before 26.02 crashes or leaves requests without an answer; remove it, or use "
                "timeout_us, which refuses what waited too long"
            },
            id="a queue of a step that can overflow",
        ),
        pytest.param(
            [("max_batch_size: 8", "guard: graph"), ("entropy}", "entropy}\n    engine: {method: openvino}")],
            {
                "recipe.yaml:20 components.image_encoder.serving.guard": "graph holds for the engine onnxruntime on a "
                "CPU, this component's is openvino: name that engine, or take guard out"
            },
            id="checks in a graph that is not served as one",
        ),
        pytest.param(
            [
                ("max_batch_size: 8", "guard: graph"),
                ("entropy}", "entropy}\n    engine: {method: auto, engines: [openvino]}"),
            ],
            {
                "recipe.yaml:19 components.image_encoder.engine": "engine auto decides by labelled samples that are "
                "neither trained on nor judged on: name them in data.validation",
                "recipe.yaml:20 components.image_encoder.serving.guard": "graph holds for the engine onnxruntime on a "
                "CPU, this component's is chosen among openvino: name that engine, or take guard out",
            },
            id="checks in a graph that none of the engines to choose from serves as one",
        ),
        pytest.param(
            [("{logits: logits}", "{logits: {tensor: logits, dtype: FP32, shape: [3]}}")],
            {
                "recipe.yaml:30 outputs.logits.labels": "labels.txt has 2 names, but the output has 3 values a sample "
                "(its shape is [3])"
            },
            id="another count of names than of classes",
        ),
    ],
)
def test_what_does_not_fit_together(edited, problems, replacements, expected):
    assert dict(problems(edited(*replacements))) == expected


def test_every_section_must_hold_something(problems, sample):
    found = problems(sample, "components={}", "inputs={}", "outputs={}")
    assert found == [
        ("--set inputs={}", "is empty: an ensemble has at least one of its inputs"),
        ("--set components={}", "is empty: an ensemble has at least one of its components"),
        ("--set outputs={}", "is empty: an ensemble has at least one of its outputs"),
    ]


def test_a_version_policy_with_what_is_published(edited):
    for policy in ("{specific: [2, 1]}", "all", "{latest: 2}"):
        assert check(load_recipe(edited(("max_batch_size: 8", f"version_policy: {policy}")))) == []
        edited((f"version_policy: {policy}", "max_batch_size: 8"))


def test_sizes_that_vary_fit_any_size(edited):
    recipe = load_recipe(edited(("{waveform: audio}", "{waveform: {tensor: audio, dtype: FP32, shape: [-1]}}")))
    assert check(recipe) == []


def test_order_and_upstream(sample):
    components = load_recipe(sample).components
    backwards = {name: components[name] for name in ("fusion", "audio_encoder", "image_encoder")}
    assert topological_order(backwards) == ("audio_encoder", "image_encoder", "fusion")
    assert upstream(backwards, "fusion") == ("audio_encoder", "image_encoder")
    assert upstream(backwards, "image_encoder") == ()


@st.composite
def random_dags(draw):
    """Components whose edges run from lower to higher numbers, in shuffled order."""
    count = draw(st.integers(1, 8))
    edges = {n: draw(st.sets(st.integers(0, n - 1))) if n else set() for n in range(count)}
    components = {
        f"c{n}": Component(
            module="m",
            inputs={"x": "source"} | {f"from_{s}": f"t{s}" for s in sources},
            outputs={"y": f"t{n}"},
        )
        for n, sources in edges.items()
    }
    names = draw(st.permutations(list(components)))
    return {name: components[name] for name in names}, edges


@given(random_dags())
def test_any_graph_without_cycles_is_ordered(dag):
    components, edges = dag
    order = topological_order(components)
    assert sorted(order) == sorted(components)
    for n, sources in edges.items():
        for source in sources:
            assert order.index(f"c{source}") < order.index(f"c{n}")

    def above(n):
        return edges[n] | {deeper for source in edges[n] for deeper in above(source)}

    for n in edges:
        assert set(upstream(components, f"c{n}")) == {f"c{source}" for source in above(n)}


@given(random_dags(), st.data())
def test_any_cycle_is_found(dag, data):
    components, edges = dag
    last = data.draw(st.sampled_from(sorted(edges)))
    first = data.draw(st.sampled_from(sorted({last, *(s for s in edges[last])})))
    looped = components | {
        f"c{first}": Component(
            module="m",
            inputs={"back": f"t{last}"} | {f"from_{s}": f"t{s}" for s in edges[first]},
            outputs={"y": f"t{first}"},
        )
    }
    with pytest.raises(ValueError, match="has a cycle"):
        topological_order(looped)
