"""The tokenizer against the original's ids and against transformers, its errors, and its life in workers."""

import json
import multiprocessing
import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openmplug.data.text import target_text
from openmplug.data.tokenizer import SPECIAL_TOKENS, Tokenizer, build_vocabulary
from openmplug.errors import ModelError, UsageError

TEXTS = ["A man rides a red horse.", "What is the man's dog doing, here?", "a t-shirt isn't red!", "un café"]
SMALLEST = Tokenizer.from_vocab([*SPECIAL_TOKENS, "a", "##a"])


@pytest.fixture(scope="module")
def extras(golden_root):
    return json.loads((golden_root / "extras" / "mplug_extras.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def original(golden_root):
    return Tokenizer.from_vocab_file(golden_root / "extras" / "vocab.txt")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_vocab(build_vocabulary(TEXTS, min_count=1))


def test_ids_equal_the_original(extras, original):
    for record in extras["text"]:
        raw = record["raw"]
        assert original.encode(raw) == record["ids"]
        assert original.encode(target_text(raw)) == record["ids_eos"]
        assert original.encode(raw, max_length=8) == record["ids_trunc8"]
        assert original.encode(f"{raw} [SEP] red dog") == record["ids_mid_sep"]
        assert original.decode(record["ids"]) == record["decode"]
    for example in extras["vqa_examples"]:
        assert original.encode(example["question"]) == example["question_ids"]


def test_decoded_texts_equal_the_original(extras, original):
    for case in extras["decode"]:
        assert original.decode(case["ids"]) == case["text"]


def test_grounding_phrases_equal_the_original(extras, original):
    for case in extras["grounding_text"]:
        tokens = original.encode_phrases([case["phrase"]], length=case["max_query_len"])
        assert tokens.ids.tolist() == [case["ids"]]
        assert tokens.mask.long().tolist() == [case["mask"]]


def test_agrees_with_transformers_on_real_captions(data_root):
    bert = pytest.importorskip("transformers").BertTokenizer
    path = data_root / "bert-base-uncased" / "vocab.txt"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    theirs, ours = bert(vocab={token: index for index, token in enumerate(lines)}), Tokenizer.from_vocab_file(path)
    with (data_root / "flickr8k" / "dev.jsonl").open(encoding="utf-8") as rows:
        captions = [json.loads(row)["captions"][0] for row in rows][:300]
    for caption in [*captions, "naïve İstanbul 中文 \u200b\x00 [MASK] [sep] " + "x" * 120]:
        ids = theirs(caption + "[SEP]", add_special_tokens=False).input_ids
        assert ours.encode(caption + "[SEP]") == [101, *ids]
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=True).replace("[SEP]", "").strip()


def test_batch_equals_one_by_one_padded_on_the_right(tokenizer):
    tokens = tokenizer(TEXTS)
    assert tokens.ids.dtype == torch.int64 and tokens.mask.dtype == torch.bool
    for text, ids, mask in zip(TEXTS, tokens.ids, tokens.mask, strict=True):
        expected = tokenizer.encode(text)
        assert ids[mask].tolist() == expected
        assert mask.tolist() == [True] * len(expected) + [False] * (len(ids) - len(expected))
        assert set(ids[~mask].tolist()) <= {tokenizer.pad_id}
    assert tokens.mask.all(dim=1).any(), "padded to the longest, not further"


def test_lengths(tokenizer):
    assert tokenizer(TEXTS, max_length=6).ids.shape == (4, 6)
    assert tokenizer(TEXTS, max_length=6, pad_to=9).ids.shape == (4, 9)
    assert tokenizer.encode("man[SEP]", max_length=2) == tokenizer.encode("man"), "the cut takes the end mark first"
    assert tokenizer([""]).ids.tolist() == [[tokenizer.cls_id]]


def test_a_literal_sep_is_one_id_and_a_lower_case_one_is_letters(tokenizer):
    assert tokenizer.encode("red[SEP]")[-1] == tokenizer.sep_id
    assert tokenizer.sep_id not in tokenizer.encode("red[sep]")
    assert tokenizer.sep_id not in tokenizer.encode_phrases(["red [SEP] horse"]).ids[0, :4]


def test_phrases_keep_their_end_when_cut(tokenizer):
    tokens = tokenizer.encode_phrases(["a red horse", "man"], length=4)
    assert tokens.ids[0, [0, -1]].tolist() == [tokenizer.cls_id, tokenizer.sep_id]
    assert tokens.ids[1].tolist() == [tokenizer.cls_id, tokenizer.token_to_id("man"), tokenizer.sep_id, tokenizer.pad_id]
    with pytest.raises(ValueError, match="length is 1; expected at least 2"):
        tokenizer.encode_phrases(["a"], length=1)


def test_prompt_loses_its_last_piece(original):
    assert original.prompt_ids("a picture of") == original.encode("a picture")
    assert original.prompt_ids() == [original.cls_id]


def test_decode_tidies_and_removes(tokenizer):
    for text in ("what is the man's dog doing, here?", "a red horse."):
        assert tokenizer.decode(tokenizer.encode(target_text(text))) == text
    ids = [tokenizer.token_to_id("red"), tokenizer.sep_id, tokenizer.token_to_id("horse"), tokenizer.pad_id]
    assert tokenizer.decode(ids) == "red  horse"
    assert tokenizer.decode(torch.tensor(ids[:1])) == "red"
    assert tokenizer.decode([10**6]) == "[UNK]"
    assert tokenizer.decode([]) == ""


@given(st.text())
def test_any_text_has_ids_inside_the_vocabulary(text):
    tokenizer = SMALLEST
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.cls_id
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert isinstance(tokenizer.decode(ids), str)


def test_bad_calls(tokenizer):
    with pytest.raises(ValueError, match="got no texts"):
        tokenizer([])
    with pytest.raises(ValueError, match="got one string; expected a list"):
        tokenizer("a man")
    with pytest.raises(ValueError, match="max_length is 0; expected at least 1"):
        tokenizer.encode("a man", max_length=0)
    with pytest.raises(ValueError, match=r"a text has \d+ tokens, more than pad_to=3; pass max_length=3"):
        tokenizer(TEXTS, pad_to=3)


def _first_ids(tokenizer):
    return tokenizer(TEXTS).ids.tolist()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_survives_pickling_and_a_fork_after_use(tokenizer, capfd):
    expected = _first_ids(tokenizer)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again == tokenizer and hash(again) == hash(tokenizer)
    assert _first_ids(again) == expected
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_first_ids, (tokenizer,)).get(timeout=30) == expected
    assert "parallelism" not in capfd.readouterr().err


def test_save_and_read_again(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path)
    assert path == tmp_path / "vocab.txt"
    assert Tokenizer.from_vocab_file(path) == tokenizer
    assert Tokenizer.from_vocab([*tokenizer.vocab, "new"]) != tokenizer


def test_files_of_other_systems_read_the_same(tokenizer, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*tokenizer.vocab, "\u2028"]).encode() + b"\r\n\r\n")
    assert Tokenizer.from_vocab_file(path).vocab == [*tokenizer.vocab, "\u2028"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"vocab.txt is empty; expected one WordPiece token per line"),
        (b"\n\n", r"vocab.txt is empty"),
        (b"[PAD]\n[UNK]\n[CLS]\na\n", r"vocab.txt has no \[SEP\], \[MASK\]; expected a BERT WordPiece vocabulary"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\na\n", r"vocab.txt holds 'a' on lines 6 and 8 \(1 tokens twice\)"),
        (b"\xff\xfe\x00", r"vocab.txt is not UTF-8 text"),
        (None, r"cannot read the vocabulary .*vocab.txt \(No such file or directory\)"),
    ],
)
def test_bad_vocabulary_files(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        Tokenizer.from_vocab_file(path)
    assert "\n" not in str(caught.value)


def test_built_vocabulary_has_berts_layout():
    vocab = build_vocabulary(["b b a? cc cc", "cc dd dd", "once"])
    assert vocab[:2] == ["[PAD]", "[unused0]"] and vocab[99:104] == ["[unused98]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = ["?", "a", "b", "c", "d", "e", "n", "o"]
    assert vocab[104:] == [*characters, *(f"##{character}" for character in characters), "cc", "dd"]


def test_built_vocabulary_is_the_same_in_any_order_and_spells_rare_words(tokenizer):
    assert build_vocabulary(reversed(TEXTS), min_count=1) == tokenizer.vocab
    tokens = [tokenizer.vocab[index] for index in tokenizer.encode("Smart café [SEP]")]
    assert tokens == ["[CLS]", "s", "##m", "##a", "##r", "##t", "cafe", "[SEP]"]


def test_built_vocabulary_keeps_its_size():
    small = build_vocabulary(["aa ab ba bb aa"], size=110, min_count=1)
    assert small[104:] == ["a", "b", "##a", "##b", "aa", "ab"]
    assert len(build_vocabulary(["[SEP] [PAD]"])) == 104


def test_a_built_vocabulary_has_the_words_of_a_task_before_all_others():
    own = ["[unused339]", "[unused340]"]
    vocab = build_vocabulary(["b a cc cc"], own=own)
    assert vocab[104:] == [*own, "a", "b", "c", "##a", "##b", "##c", "cc"]
    with pytest.raises(UsageError, match=r"cannot hold 3 characters and 2 words of the task; set tokenizer\.size to"):
        build_vocabulary(["b a cc cc"], size=110, own=own)
    with pytest.raises(UsageError, match=r"a vocabulary of 105 cannot hold 2 characters; set tokenizer\.size to at least 108"):
        build_vocabulary(["ab"], size=105)


@given(st.lists(st.text(alphabet="abcé'? -", max_size=20), max_size=8))
def test_built_vocabulary_leaves_nothing_unknown(texts):
    vocab = build_vocabulary(texts)
    assert len(set(vocab)) == len(vocab)
    tokenizer = Tokenizer.from_vocab(vocab)
    assert all(tokenizer.unk_id not in tokenizer.encode(text) for text in texts)
