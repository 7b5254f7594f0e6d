"""Text states, the prompt's direction, and the prompt gate, against sums written out."""

import torch
from conftest import NEGATIVE, POSITIVE
from transformers import CLIPTextConfig, CLIPTextModel

from emoe.gate import PromptGate, UniformGate, phi
from emoe.route import choose
from emoe.text import TextEncoder
from emoe.tokenizer import clip_tokenizer

START, END = 49406, 49407


def test_states_are_clips(text):
    prompts = ["a red bus", "", "x " * 100]
    found = text(prompts)
    ids = text.tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = text.model(ids).last_hidden_state
    assert torch.equal(found.states, expected)
    assert found.truncated == [False, False, True]
    assert text(["x " * 75, "x " * 76]).truncated == [False, True]  # two marks
    assert found.states.shape == (3, 77, 64)


def test_content_is_from_the_first_word_to_the_first_end(text):
    content = text(["a red bus", "", "x " * 100, "a <|endoftext|> b"]).content
    assert [row.nonzero()[:, 0].tolist() for row in content] == [[1, 2, 3, 4], [1], list(range(1, 77)), [1, 2]]


def test_a_prompt_means_the_same_in_any_batch(text):
    together = text(["a red bus", "x " * 60, ""]).states
    assert torch.allclose(together[0], text(["a red bus"]).states[0], atol=1e-6)


def test_a_tokenizer_with_another_pad_and_a_model_of_another_length():
    tokenizer = clip_tokenizer.__wrapped__()
    tokenizer.pad_token = "!"
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = CLIPTextModel(CLIPTextConfig(**small, max_position_embeddings=20)).eval()
    ids = tokenizer("a red bus", padding="max_length", max_length=20, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = model(ids).last_hidden_state
    found = TextEncoder(model, tokenizer)(["a red bus", "x " * 19])
    assert torch.allclose(found.states[:1], expected, atol=1e-6)
    assert found.truncated == [False, True]


def test_odd_prompts(text):
    for prompt in ("\0", "\n\t", "🎉" * 500, "a" * 100_000, "<|startoftext|>", "́", "日本語のバス"):
        assert torch.isfinite(text([prompt]).states).all()


def test_what_says_nothing(text):
    """By its tokens alone, or with its states: the same."""
    prompts = ["", " \n", "<|endoftext|>", "a", ".", "<|endoftext|> a", "word " * 99]
    assert text.empty(prompts) == text(prompts).empty.tolist() == [True] * 3 + [False, False, True, False]


def test_phi_is_the_mean_without_the_start_at_unit_length(text):
    states = text(["a red bus"])
    expected = states.states[0, 1:5].mean(0)
    assert torch.allclose(phi(states)[0], expected / expected.norm(), atol=1e-6)
    assert torch.allclose(phi(text(POSITIVE)).norm(dim=-1), torch.ones(4))


def test_logits(text):
    gate = PromptGate(text(POSITIVE), text(NEGATIVE), top=2, temperature=0.5)
    prompt, negative = text(["a red bus", "b", "b"]), text(["blurry", " \n", "<|endoftext|>"])
    positive_part = phi(prompt) @ phi(text(POSITIVE)).T
    negative_part = phi(negative) @ phi(text(NEGATIVE)).T
    assert torch.allclose(gate.logits(prompt), positive_part / 0.5)
    assert torch.allclose(PromptGate(text(POSITIVE), text(NEGATIVE), top=2).logits(prompt), positive_part)
    expected = torch.stack([positive_part[0] + negative_part[0], *positive_part[1:]]) / 0.5  # an empty one adds nothing
    assert torch.allclose(gate.logits(prompt, negative), expected)


def test_a_prompt_like_a_descriptor_goes_to_its_expert(text):
    gate = PromptGate(text(POSITIVE), text(NEGATIVE), top=1)
    assert torch.equal(gate(text(POSITIVE)), torch.eye(4))


def test_temperature_sharpens(text):
    def weights(temperature):
        return PromptGate(text(POSITIVE), text(NEGATIVE), top=4, temperature=temperature)(text(["anime"]))

    assert weights(0.01).max() > weights(1.0).max() > weights(100.0).max()
    assert torch.allclose(weights(1e6), torch.full((1, 4), 0.25), atol=1e-4)


def test_the_weights_are_a_choice_among_the_logits(text):
    gate = PromptGate(text(POSITIVE), text(NEGATIVE), top=2)
    prompts = text(["a red bus", "anime girl"])
    assert torch.equal(gate(prompts), choose(gate.logits(prompts), 2))


def test_uniform(text):
    assert torch.equal(UniformGate(3)(text(["a", "b"])), torch.full((2, 3), 1 / 3))
