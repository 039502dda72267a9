"""Chats as text: the tokenizer's own template, the plain one, and what of it the assistant says."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_tokenizers import MARKED, STRICT, UNMARKED, with_template
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from finf_core.chat import Message, PlainChat, read_messages, split_answer
from finf_core.errors import InputError
from finf_core.losses import IGNORE_INDEX
from finf_core.spec import CorpusSpec, ModelSpec, QueriesSpec, ScanSpec
from tasks.chat_template import TokenizerChat
from tasks.checkpoint import load_chat, load_language_model
from tasks.corpus import CorpusRow
from tasks.encode import encode_query, reaches_into, tokens_of, windows_of
from tasks.loaded_model import TextModel
from tasks.queries import Query, load_queries

CHAT = [
    {"role": "system", "content": "be red"},
    {"role": "user", "content": "one cat?"},
    {"role": "assistant", "content": "two dogs"},
    {"role": "user", "content": "alpha: "},
    {"role": "assistant", "content": "beta\n river "},
]
MESSAGES = read_messages(CHAT)
SPEC = ModelSpec(path="unused")


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    folder = with_template(tiny_checkpoint, tmp_path_factory.mktemp("chat") / "model", MARKED)
    return load_language_model(ModelSpec(path=str(folder)))


def row_of(model: TextModel, plain: bool, only_assistant: bool) -> CorpusRow:
    chat = PlainChat() if plain else model.chat
    text, counted = chat.write(MESSAGES, only_assistant)
    return CorpusRow(0, "0", text, None, None, counted, chat.has_special_tokens)


def test_text_tokens_and_mask_are_those_of_apply_chat_template(model: TextModel) -> None:
    row = row_of(model, plain=False, only_assistant=True)
    assert row.text == model.tokenizer.apply_chat_template(CHAT, tokenize=False)
    [tokens] = tokens_of(model, [row], "shard")
    wanted = model.tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    assert tokens.ids.tolist() == wanted["input_ids"]
    assert tokens.counts is not None
    assert tokens.counts.tolist() == list(map(bool, wanted["assistant_masks"]))
    assert 0 < tokens.counts.sum() < len(tokens.ids) / 2


def test_of_a_chat_whose_tokens_all_count_none_is_added_or_lost(model: TextModel) -> None:
    [tokens] = tokens_of(model, [row_of(model, plain=False, only_assistant=False)], "shard")
    assert tokens.counts is None
    assert tokens.ids.tolist() == model.tokenizer.apply_chat_template(CHAT)["input_ids"]
    bos = model.tokenizer.bos_token_id
    assert bos is not None
    assert (tokens.ids == bos).sum() == 1  # the template's own: the tokenizer adds none


def test_the_plain_format_counts_the_assistants_characters_and_no_others(model: TextModel) -> None:
    row = row_of(model, plain=True, only_assistant=True)
    assert row.text == (
        "system: be red\nuser: one cat?\nassistant: two dogs\nuser: alpha: \nassistant: beta\n river \n"
    )
    assert [row.text[start:stop] for start, stop in row.counted or ()] == ["two dogs\n", "beta\n river \n"]
    [tokens] = tokens_of(model, [row], "shard")
    assert tokens.ids.tolist() == model.tokenizer(row.text)["input_ids"]
    windows = windows_of(model, SPEC, *tokens)
    labels = np.concatenate([window.labels for window in windows])
    said = model.tokenizer.decode(labels[labels != IGNORE_INDEX])
    assert said.replace(" ", "") == "twodogs\nbeta\nriver\n"  # a token may begin with the space before it


def test_every_window_of_a_long_chat_counts_only_what_the_assistant_says(tiny_checkpoint: Path) -> None:
    model = load_language_model(ModelSpec(path=str(tiny_checkpoint), context_tokens=12))
    [tokens] = tokens_of(model, [row_of(model, plain=True, only_assistant=True)], "shard")
    windows = windows_of(model, ModelSpec(path="unused", overlap_tokens=4), *tokens)
    assert len(windows) > 1
    labels = np.concatenate([window.labels for window in windows])
    assert labels[labels != IGNORE_INDEX].tolist() == tokens.ids[tokens.counts].tolist()


def test_an_answer_that_ends_in_a_character_without_a_token_ends_there() -> None:
    """`assistant_masks` of transformers 5.23 goes on to the end of the chat."""
    words = Tokenizer(WordLevel({word: place for place, word in enumerate(["?", "red", "cat", "dog"])}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    tokenizer.chat_template = MARKED.replace("{{ eos_token }}", "{{ '\n' }}").replace("{{ bos_token }}", "")
    chat = [Message("user", "red"), Message("assistant", "cat"), Message("user", "dog")]
    text, spans = TokenizerChat(tokenizer).write(chat, find_assistant=True)
    encoded = tokenizer(text, return_offsets_mapping=True)
    counts = reaches_into(np.asarray(encoded["offset_mapping"]), spans or ())
    assert np.asarray(encoded["input_ids"])[counts].tolist() == [2]


# ---- messages --------------------------------------------------------------------------------------------------------


def test_the_sharegpt_names_are_the_same_chat() -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    assert read_messages([{"from": names[m["role"]], "value": m["content"]} for m in CHAT]) == MESSAGES
    assert read_messages([{"role": "human", "content": "x"}]) == [Message("human", "x")]  # only under those names


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "the list of messages is null"),
        ([], "the list of messages is empty"),
        ([{"role": "user", "content": "x"}, None], "message 1 is null"),
        ([{"role": "user", "content": None}], "message 0: content is null"),
        ([{"role": None, "content": "x"}], "message 0: role is null"),
        ([{"role": "user", "content": ["x"]}], "message 0: content is list"),
        ([{"from": "human", "value": 3}], "message 0: value is int"),
        ([{"speaker": "x", "text": "y"}], "message 0 has the fields speaker, text; want role and content"),
    ],
)
def test_messages_without_text_are_named(value: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        read_messages(value)
    assert words in str(error.value)


# ---- queries ---------------------------------------------------------------------------------------------------------


def load_query(folder: Path, messages: Any, chat: Any) -> Any:
    pq.write_table(pa.table({"messages": [messages]}), folder / "queries.parquet")
    [query] = load_queries(QueriesSpec(path=str(folder / "queries.parquet"), messages_column="messages"), chat)
    return query


def test_the_last_answer_is_the_target_and_all_before_it_the_context(model: TextModel, tmp_path: Path) -> None:
    query = load_query(tmp_path, [*CHAT, {"role": "user", "content": "thanks"}], model.chat)
    assert query.context + query.target + "\n" == model.tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert query.target == "beta\n river <eos>"
    [window] = encode_query(model, SPEC, query)
    assert window.input_ids.tolist() == model.tokenizer.apply_chat_template(CHAT)["input_ids"][:-2]
    plain = load_query(tmp_path, CHAT, PlainChat())
    assert plain.context.endswith("user: alpha: \nassistant: ")
    assert plain.target == "beta\n river \n"


def test_without_marks_the_answer_begins_where_the_prompt_for_it_ends(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = load_language_model(
        ModelSpec(path=str(with_template(tiny_checkpoint, tmp_path / "m", UNMARKED)))
    ).tokenizer
    context, target = split_answer(TokenizerChat(tokenizer), MESSAGES)
    assert context == tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, tokenize=False)
    assert target == "beta\n river <eos>\n"
    tokenizer.chat_template = "{% if add_generation_prompt %}?{% endif %}" + UNMARKED
    with pytest.raises(InputError, match="otherwise once it is answered"):
        split_answer(TokenizerChat(tokenizer), MESSAGES)


def test_a_query_that_has_its_special_tokens_is_another_than_one_that_gets_them(model: TextModel) -> None:
    query = Query("q", *split_answer(model.chat, MESSAGES), has_special_tokens=True)
    other = dataclasses.replace(query, has_special_tokens=False)
    assert query.digest != other.digest
    lengths = [len(encode_query(model, SPEC, each)[0]) for each in (query, other)]
    assert lengths[0] < lengths[1]


def test_a_chat_without_an_answer_is_named_by_row(model: TextModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"queries\.parquet: row 0: no message of the assistant"):
        load_query(tmp_path, CHAT[:2], model.chat)


# ---- templates that cannot be used -----------------------------------------------------------------------------------


def spec_of(model: Path, **changes: Any) -> ScanSpec:
    corpus = CorpusSpec(path="c", messages_column="messages", **changes)
    return ScanSpec(name="a", model=ModelSpec(path=str(model)), corpus=corpus, queries=QueriesSpec(path="q"))


def test_a_tokenizer_without_a_template_or_without_marks_is_refused_with_the_way_out(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no chat template; set model\.chat_template = 'plain'"):
        load_chat(spec_of(tiny_checkpoint))
    unmarked = with_template(tiny_checkpoint, tmp_path / "unmarked", UNMARKED)
    assert isinstance(load_chat(spec_of(unmarked)), TokenizerChat)
    with pytest.raises(InputError, match=r"loss_on = 'assistant': the tokenizer's chat template does not mark"):
        load_chat(spec_of(unmarked, loss_on="assistant"))
    plain = ModelSpec(path=str(unmarked), chat_template="plain")
    assert isinstance(load_chat(dataclasses.replace(spec_of(unmarked, loss_on="assistant"), model=plain)), PlainChat)


def test_messages_that_the_template_refuses_are_an_input_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    chat = load_language_model(ModelSpec(path=str(with_template(tiny_checkpoint, tmp_path / "strict", STRICT)))).chat
    with pytest.raises(InputError, match="the chat template refuses the messages: a user speaks first"):
        chat.write(MESSAGES, False)
