"""Chat and fill-in-the-middle prompts are built of the tokenizer's own parts, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_unlearn.models.loading import LanguageModel, Weights
from pytest_unlearn.models.prompt_formats import StyleError, chat_ids, chat_text, infill_ids
from tests.support.small_models import byte_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


def test_chat_goes_through_the_template() -> None:
    """The model answers after the template's own opening, whose last newline stays."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    ids = chat_ids(tokenizer, "who?")
    assert tokenizer.decode(ids) == "<s>[user]who?[assistant]\n"
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    "tokens",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
        ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ],
    ids=["starcoder", "qwen", "codellama"],
)
def test_infill_uses_the_tokens_that_are_there(tokens: tuple[str, str, str]) -> None:
    """Prefix, suffix, then the token after which the middle comes."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    begin, gap, end = (tokenizer.convert_tokens_to_ids(token) for token in tokens)
    ids = infill_ids(tokenizer, "a = '", "'\n")
    assert ids[0] == tokenizer.bos_token_id
    assert (ids[1], ids[-1]) == (begin, end)
    middle = ids.index(gap)
    assert tokenizer.decode(ids[2:middle]) == "a = '"
    assert tokenizer.decode(ids[middle + 1 : -1]) == "'\n"


def test_what_a_tokenizer_lacks_is_an_error() -> None:
    """A prompt in another form would measure something else under the same name."""
    with pytest.raises(StyleError, match="leave chat out of --unlearn-probes"):
        chat_ids(byte_tokenizer(), "who?")
    with pytest.raises(StyleError, match="leave infill out of --unlearn-probes"):
        infill_ids(byte_tokenizer(), "a", "b")


def test_a_conversation_goes_through_the_template() -> None:
    """Turn by turn, and the model answers the user's last."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    talk = ["who?", "Ann.", "and then?"]
    text = "<s>[user]who?[assistant]Ann.[user]and then?[assistant]\n"
    assert tokenizer.decode(chat_ids(tokenizer, talk)) == text
    assert chat_ids(tokenizer, ["who?"]) == chat_ids(tokenizer, "who?")


def test_a_template_that_forgets_an_earlier_turn_is_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(StyleError, match="leaves out the user's message"):
        chat_ids(tokenizer, ["who?", "Ann.", "and then?"])


def test_a_model_answers_in_a_conversation(llama: Weights) -> None:
    """What was said before changes the answer; conversations of a batch may be of any length."""
    llama.tokenizer.chat_template = TEMPLATE
    model = LanguageModel(llama, adapted=False)
    talks = [["who?"], ["who?", "Ann.", "and then?"]]
    both = model.converse(talks, max_new_tokens=6)
    assert both == [model.converse([talk], max_new_tokens=6)[0] for talk in talks]
    assert both[:1] == model.answer(["who?"], max_new_tokens=6)
    with torch.inference_mode():
        ids = torch.tensor([chat_ids(llama.tokenizer, talks[1])])
        first = llama.model(input_ids=ids).logits[0, -1].argmax()  # type: ignore[operator]
    assert both[1].startswith(llama.tokenizer.decode([int(first)]))


def test_a_model_answers_in_each_style(llama: Weights) -> None:
    """Batched and alone, an answer is the same, and no prompt is part of it."""
    llama.tokenizer.chat_template = TEMPLATE
    model = LanguageModel(llama, adapted=False)
    both = model.answer(["who?", "what is it?"], max_new_tokens=6)
    assert both == [model.answer([text], max_new_tokens=6)[0] for text in ("who?", "what is it?")]
    with torch.inference_mode():
        ids = torch.tensor([chat_ids(llama.tokenizer, "who?")])
        first = llama.model(input_ids=ids).logits[0, -1].argmax()  # type: ignore[operator]
    assert both[0].startswith(llama.tokenizer.decode([int(first)]))
    with pytest.raises(StyleError):
        model.infill([("a = '", "'\n")])


LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ([{"name": "default", "template": LOOP}, {"name": "rag", "template": "?"}], "<user>who?"),
        ([{"name": "only", "template": LOOP}], "<user>who?<assistant>"),
        ({"default": LOOP, "tool_use": "?"}, "<user>who?<assistant>"),
        (
            "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}"
            + LOOP,
            "<system>You are a helpful assistant.<user>who?<assistant>",
        ),
        (
            "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}"
            "{% endfor %}:",
            "who?:",
        ),
        (LOOP + "{{ '<think>\\n' }}", "<user>who?<assistant><think>\n\n</think>\n\n"),
        (
            LOOP + "{% if enable_thinking is false %}<think></think>{% endif %}",
            "<user>who?<assistant><think></think>",
        ),
    ],
    ids=["list", "list of one", "dict", "system", "parts", "opens thought", "switch"],
)
def test_every_form_of_template(template: Any, text: str) -> None:
    """The message is in it, the model answers next, and does not think first."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    assert chat_text(tokenizer, "who?").startswith(text)


def test_thinking_is_left_open_where_it_is_asked_for() -> None:
    """As the template has it."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = LOOP + "{{ '<think>\\n' }}"
    assert chat_text(tokenizer, "who?", thinking=True).endswith("<think>\n")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Hello!{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out the user's message"),
        ("{{ raise_exception('never') }}", r"cannot be used \(never\)"),
        ("{% for %}", "cannot be used"),
        ({"rag": LOOP, "tools": LOOP}, "templates rag, tools, and none is called default"),
    ],
)
def test_a_template_that_hides_the_message_is_refused(template: Any, message: str) -> None:
    """The model would answer something else, and what it was asked for would look forgotten."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(StyleError, match=message):
        chat_ids(tokenizer, "who?")
