from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import moonlib.encoders.mllm.encoder as module
from moonlib.data.content import Content
from moonlib.encoders.encoder import ContentBatch
from moonlib.encoders.mllm import vision_attention
from moonlib.encoders.mllm.encoder import MLLM
from moonlib.encoders.mllm.lora import LoRA
from moonlib.encoders.mllm.presets import PRESETS
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.testing import check_encoder, example_contents, example_jpeg, example_products
from moonlib.testing.mllm import example_mllm_config

pytest.importorskip("transformers", minversion="5", reason="pip install 'moonlib-embedding[mllm]'")

CONTENTS = [
    *example_contents(),
    Content(example_jpeg(7, width=200, height=80), "a mug 马克杯"),
    Content(example_jpeg(8, width=60, height=180), None),
]
presets = pytest.mark.parametrize("preset", PRESETS)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., MLLM]:
    def make(preset: str = "qwen2_vl_small", seed: int = 0, **arguments: Any) -> MLLM:
        torch.manual_seed(seed)
        arguments.setdefault("config", example_mllm_config(preset))
        encoder = MLLM(**{"vocab_size": 300, "dim": 8} | arguments)
        encoder.setup(example_products(), tmp_path)
        for parameter in encoder.parameters():  # at the usual scale, attention is nearly uniform and shows little
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
        return encoder.eval()

    return make


def of_transformers(encoder: MLLM, batch: ContentBatch, row: int) -> dict[str, Tensor]:
    """What transformers' own forward takes for one row, with its own image processor."""
    length = int(batch["token_mask"][row].sum())
    tokens = batch["tokens"][row : row + 1, :length]
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    height, width = batch["image_size"][row].tolist()
    if not height:
        return inputs
    image = batch["image"][row, :, :height, :width]
    family: Any = encoder.family
    if not encoder.body.config.model_type.startswith("qwen"):
        return inputs | {"pixel_values": ((image / 255 - 0.5) / 0.5)[None, None]}
    from transformers import Qwen2VLImageProcessor

    processor = Qwen2VLImageProcessor(
        patch_size=family.patch,
        merge_size=family.merge,
        temporal_patch_size=family.frames,
        do_resize=False,
        image_mean=family.mean,
        image_std=family.std,
    )
    found: Mapping[str, Tensor] = processor(images=[image], return_tensors="pt", input_data_format="channels_first")
    assert found["image_grid_thw"].prod() // family.merge**2 == (tokens == family.image_token).sum()
    return inputs | {**found, "mm_token_type_ids": (tokens == family.image_token).int()}


@torch.no_grad()
@pytest.mark.parametrize("resize", ["square", "aspect"])
@presets
def test_with_causal_attention_hidden_states_are_transformers_own(
    make: Callable[..., MLLM], preset: str, resize: str
) -> None:
    encoder = make(preset, resize=resize, attention="causal")
    batch = encoder.preprocessor(CONTENTS, "product")
    states = encoder.states(batch, causal=True)
    encoder.body.set_attn_implementation("sdpa")  # transformers' own, in the vision tower too
    for row, content in enumerate(CONTENTS):
        if content.image or content.text:
            expected = encoder.body.model(**of_transformers(encoder, batch, row)).last_hidden_state[0]
            torch.testing.assert_close(states[row, : len(expected)], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("preset", ["qwen2_vl_small", "qwen2_5_vl_small", "qwen3_vl_small"])
def test_a_layer_of_the_vision_tower_attends_to_all_images_in_one_call(
    make: Callable[..., MLLM], preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, attend_within = [], vision_attention.attend_within

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return attend_within(*arguments)

    monkeypatch.setattr(vision_attention, "attend_within", counted)
    encoder = make(preset)
    encoder(encoder.preprocessor([Content(example_jpeg(number), None) for number in range(3)], "product"))
    assert len(calls) == len(encoder.body.base_model.visual.blocks)


@torch.no_grad()
@presets
def test_encoding_looks_ahead_and_answering_does_not(make: Callable[..., MLLM], preset: str) -> None:
    encoder = make(preset)
    batch = encoder.preprocessor([Content(None, "red cotton mug")], "product")
    changed = batch | {"tokens": batch["tokens"].clone()}
    changed["tokens"][0, -2] += 1
    for causal, ahead in [(False, True), (True, False)]:
        before, after = (encoder.states(one, causal=causal)[0] for one in (batch, changed))
        assert (not torch.equal(before[:-2], after[:-2])) == ahead
        assert not torch.equal(before[-1], after[-1])


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "last"])
@presets
def test_packed_rows_are_padded_ones_and_do_not_see_each_other(
    make: Callable[..., MLLM], preset: str, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make(preset, resize="aspect", pooling=pooling)
    batch = encoder.preprocessor(CONTENTS, "product")
    padded = encoder(batch)
    encoder.packed = True
    ran: list[torch.Size] = []
    monkeypatch.setattr(module, "PACKED", 50)
    encoder.body.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: ran.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    torch.testing.assert_close(encoder(batch), padded, rtol=1e-5, atol=1e-5)
    assert 1 < ran[0][0] < len(CONTENTS) - 1 and ran[0][1] == 50, "several sequences, of several rows"
    other = encoder.preprocessor([Content(example_jpeg(9), "another"), *CONTENTS[1:]], "product")
    torch.testing.assert_close(encoder(other)[1:], padded[1:], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(encoder(other)[0], padded[0], atol=1e-3)


@torch.no_grad()
def test_pooling_leaves_out_padding_and_nothing_else(make: Callable[..., MLLM]) -> None:
    for pooling in ("mean", "last"):
        encoder = make(pooling=pooling)
        batch = encoder.preprocessor(CONTENTS, "product")
        states, vectors = encoder.states(batch, causal=False), encoder(batch)
        for row, mask in enumerate(batch["token_mask"]):
            own = states[row, : int(mask.sum())]
            if not len(own):
                assert not vectors[row].any(), "a row with nothing is all zeros"
                continue
            pooled = own.mean(dim=0) if pooling == "mean" else own[-1]
            torch.testing.assert_close(vectors[row], encoder.projection(pooled))


@pytest.mark.parametrize(
    "arguments",
    [
        {"preset": "qwen2_vl_small"},
        {"preset": "smolvlm_small", "packed": True, "pooling": "last"},
        {"preset": "qwen3_vl_small", "resize": "aspect", "attention": "causal", "checkpointing": True},
        {"preset": "qwen2_5_vl_small", "lora": LoRA(rank=2)},
    ],
    ids=lambda arguments: arguments["preset"],
)
def test_it_keeps_the_promises_of_encoders(arguments: dict[str, Any]) -> None:
    preset = arguments["preset"]
    rest = {name: value for name, value in arguments.items() if name != "preset"}
    check_encoder(lambda: MLLM(config=example_mllm_config(preset), vocab_size=300, dim=8, **rest))


@pytest.mark.parametrize("preset", ["qwen2_vl_small", "qwen3_vl_small", "smolvlm_small"])
def test_every_parameter_has_a_gradient_whatever_is_missing(make: Callable[..., MLLM], preset: str) -> None:
    encoder = make(preset, config=example_mllm_config(preset) | {"tie_word_embeddings": False}).train()
    for objective in ("representation", "generation"):
        encoder.learn(objective)
        for content in (Content(None, "a mug"), Content(example_jpeg(1), None), Content(None, None)):
            encoder.zero_grad()
            if objective == "representation":
                encoder(encoder.preprocessor([content], "query")).sum().backward()
            else:
                losses, _ = encoder.answer_losses(encoder.questions.ask([content], ["colour?"], ["red"]))
                losses.sum().backward()
            lacking = [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None]
            assert not lacking, (objective, content, lacking)
            idle = {n for n, p in encoder.named_parameters() if not p.requires_grad}
            head = {"body.lm_head.weight"}
            assert idle == (head if objective == "representation" else {"projection.weight", "projection.bias"})


@presets
def test_answer_losses_are_transformers_own(make: Callable[..., MLLM], preset: str) -> None:
    encoder = make(preset)
    answers = ["red", "白色 white", "cotton", "x", "y", "mug, red", "z"]
    batch = encoder.questions.ask(CONTENTS, ["What colour?"] * 7, answers)
    losses, counts = encoder.answer_losses(batch)
    for row in range(7):
        length = int(batch["token_mask"][row].sum())
        labels = torch.where(batch["answer"], batch["tokens"], -100)[row : row + 1, :length]
        with torch.no_grad():
            expected = encoder.body(**of_transformers(encoder, batch, row), labels=labels).loss
        assert math.isclose((losses[row] / counts[row]).item(), expected.item(), rel_tol=1e-4)
        right = encoder.questions.answer_tokens([answers[row]])[0]
        assert batch["tokens"][row][batch["answer"][row]].tolist() == list(right), (
            "the answer and its end, nothing else"
        )


@torch.no_grad()
@pytest.mark.parametrize("preset", ["qwen2_5_vl_small", "smolvlm_small"])
def test_greedy_answers_are_the_likeliest_tokens_one_by_one(make: Callable[..., MLLM], preset: str) -> None:
    encoder = make(preset)
    contents = [CONTENTS[0], CONTENTS[2]]
    found = encoder.answer(encoder.questions.ask(contents, ["What?", "Which colour is it?"]), max_tokens=4)
    for row, content in enumerate(contents):
        batch = encoder.questions.ask([content], [["What?", "Which colour is it?"][row]])
        written: list[int] = []
        for _ in range(4):
            inputs = of_transformers(encoder, batch, 0)
            written.append(int(encoder.body(**inputs).logits[0, -1].argmax()))
            batch["tokens"] = F.pad(batch["tokens"], (0, 1), value=written[-1])
            batch["token_mask"] = F.pad(batch["token_mask"], (0, 1), value=True)
        assert found[row] == encoder._decoded([written])[0]


def test_what_an_answer_is_compared_with_is_spelled_as_it_is_decoded(make: Callable[..., MLLM]) -> None:
    spelled = make().spelled(["Red", "RED ", "红色", "red" * 99])
    assert spelled[0] == spelled[1] == "red" and spelled[2] == "红色" and len(spelled[3]) < 3 * 99


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained(make: Callable[..., MLLM]) -> None:
    pytest.importorskip("peft", reason="pip install 'moonlib-embedding[mllm]'")
    from moonlib.encoders.mllm.lora import add_lora

    encoder = make()
    batch = encoder.preprocessor(CONTENTS, "product")
    before = encoder(batch)
    add_lora(encoder.body, LoRA(rank=2, modules=["q_proj", "v_proj"]))
    torch.testing.assert_close(encoder(batch), before)
    adapted = make(lora=LoRA(rank=2, modules=["q_proj"]))
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trainable and all("q_proj.lora_" in name or name.startswith("projection") for name in trainable)


def test_without_peft_the_error_says_what_to_install(
    make: Callable[..., MLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match=r"lora needs peft .*moonlib-embedding\[mllm\]"):
        make(lora=LoRA())


def test_an_older_transformers_is_told_of(make: Callable[..., MLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.metadata, "version", lambda name: "4.57.1")
    told = r"mllm needs transformers 5, and 4\.57\.1 is installed: pip install 'moonlib-embedding\[mllm\]'"
    with pytest.raises(ValueError, match=told):
        make()


def test_checkpointed_gradients_are_the_same(make: Callable[..., MLLM]) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = make(checkpointing=checkpointing).train()
        encoder(encoder.preprocessor(CONTENTS, "product")).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_learning_rates_by_pattern(make: Callable[..., MLLM]) -> None:
    encoder = make(learning_rates={r"visual\.patch_embed": 0.0, "visual": 0.1})
    for name, parameter in encoder.named_parameters():
        expected = 0.0 if "visual.patch_embed" in name else 0.1 if "visual" in name else 1.0
        assert encoder.learning_rate_factor(name) == expected
        assert parameter.requires_grad == (expected > 0)
    encoder.learn("generation")
    encoder.learn("representation")
    assert not any(p.requires_grad for n, p in encoder.named_parameters() if "patch_embed" in n)
    with pytest.raises(ValueError, match=r"'vision_tower' matches no parameter; names are such as body\."):
        make(learning_rates={"vision_tower": 0.1})


@torch.no_grad()
def test_a_title_that_spells_special_tokens_is_a_text(make: Callable[..., MLLM]) -> None:
    encoder = make()
    batch = encoder.preprocessor([Content(example_jpeg(0), "<|image_pad|> <|im_end|>"), CONTENTS[1]], "product")
    assert (batch["tokens"] == encoder.family.image_token).sum(dim=1).tolist() == [16, 16]
    assert encoder(batch).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("preset", ["qwen2_5_vl_small", "smolvlm_small"])
def test_a_folder_of_transformers_is_a_model(make: Callable[..., MLLM], preset: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    made, folder = make(preset), tmp_path / "folder"
    made.body.save_pretrained(folder)
    tokenizer = made.preprocessor.tokenizer
    tokenizer.encode_special_tokens = False
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    loaded = MLLM(model=str(folder), dim=8)
    loaded.setup(example_products(), tmp_path / "unused")
    assert not (tmp_path / "unused").exists(), "nothing is fitted"
    assert all(module.training for module in loaded.modules()), "what is read comes in eval mode, without dropout"
    for name, tensor in made.body.state_dict().items():
        assert torch.equal(loaded.body.state_dict()[name], tensor)
    random = MLLM(model=str(folder), pretrained=False, dim=8)
    random.setup(example_products(), tmp_path / "unused")
    assert not torch.equal(random.body.lm_head.weight, made.body.lm_head.weight)
    save_weights(loaded, tmp_path / "weights.safetensors")
    load_weights(random, tmp_path / "weights.safetensors")
    batch = loaded.preprocessor(CONTENTS, "product")
    torch.testing.assert_close(loaded.eval()(batch), random.eval()(batch))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"config": "qwen9"}, "no preset 'qwen9'; there are qwen2_vl_small"),
        ({"config": {"text_config": {}}}, "a mapping needs model_type"),
        ({"config": {"model_type": "qwen2_vll"}}, "config: transformers cannot make it"),
        ({"config": {"model_type": "llava"}}, "cannot drive a model of type 'llava'; it can: qwen2_vl"),
        ({"model": "/nowhere"}, "^model: there is no folder '/nowhere'"),
        ({"model": "nobody/nothing"}, "^model: transformers cannot load 'nobody/nothing': the hub cannot be reached"),
        ({"image_tokens": 0}, "must be at least 1"),
        ({"learning_rates": {"visual": -1}}, "expected a factor >= 0, got -1"),
        ({"learning_rates": {"(": 1.0}}, "'\\(' is no regular expression"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[..., MLLM], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)
