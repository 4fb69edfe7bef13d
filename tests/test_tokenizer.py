import open_clip
import pytest
import torch

from clip_decomp.tokenizer import BPETokenizer

TEXTS = ["a photo of a banana", "a red banana on a plain background", "the key"]


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(TEXTS, vocab_size=300, context_length=12)


def test_layout_is_start_text_end_zeros(bpe):
    (row,) = bpe(["banana"]).tolist()
    inner = bpe.tokenizer.encode("banana").ids
    assert row == [bpe.start, *inner, bpe.end, *[0] * (10 - len(inner))]
    assert inner  # ids of text lie between the padding and the two marks
    assert all(0 < each < bpe.start for each in inner)
    assert bpe.end == bpe.start + 1 == bpe.vocab_size - 1


def test_the_end_is_the_highest_id_which_open_clips_text_tower_pools_at(bpe):
    tokens = bpe(TEXTS)
    assert tokens.shape == (3, 12)
    assert tokens.dtype == torch.long
    ends = tokens.argmax(-1)
    assert torch.equal(tokens.gather(1, ends[:, None])[:, 0], torch.full((3,), bpe.end))
    features = torch.arange(36.0).reshape(3, 12, 1)
    pooled = open_clip.transformer.text_global_pool(features, tokens, pool_type="argmax")
    assert torch.equal(pooled, features[torch.arange(3), ends])


def test_vocabulary_has_the_size_asked_for(bpe):
    assert bpe.vocab_size <= 300
    large = BPETokenizer.train([" ".join(f"word{k}" for k in range(500))], vocab_size=400, context_length=8)
    assert large.vocab_size == 400


def test_training_learns_frequent_words(bpe):
    assert len(bpe.tokenizer.encode("banana").ids) < len(bpe.tokenizer.encode("zyxwvu").ids)


@pytest.mark.parametrize("text", ["", " ", "naïve café", "猫の写真", "🙂🙂", "a\tb\nc", "\x00\x7f", "<start> <end>"])
def test_any_string_is_encoded(text, bpe):
    (row,) = bpe([text]).tolist()
    assert row[0] == bpe.start
    assert row.count(bpe.end) == 1
    assert max(row) == bpe.end


def test_strings_survive(bpe):
    for text in ("a photo of a banana", "naïve café", "猫の写真"):
        assert bpe.tokenizer.decode(bpe.tokenizer.encode(text).ids).strip() == text


def test_case_and_outer_space_do_not_matter(bpe):
    tokens = bpe(["A Red BANANA", " a red banana ", "a red banana"])
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[1], tokens[2])


def test_long_texts_are_cut_before_the_end(bpe):
    (row,) = bpe(["banana " * 50]).tolist()
    assert len(row) == 12
    assert (row[0], row[-1]) == (bpe.start, bpe.end)
    assert 0 not in row


def test_the_context_length_can_be_given(bpe):
    assert bpe(["a key"], context_length=5).shape == (1, 5)
    assert bpe.context_length == 12


def test_one_string_or_none(bpe):
    assert torch.equal(bpe("the key"), bpe(["the key"]))
    assert bpe([]).shape == (0, 12)


def test_json_restores_it(bpe):
    again = BPETokenizer.from_json(bpe.to_json(), 12)
    assert torch.equal(again(TEXTS), bpe(TEXTS))
    assert (again.start, again.end, again.vocab_size) == (bpe.start, bpe.end, bpe.vocab_size)


def test_training_is_deterministic(bpe):
    assert BPETokenizer.train(TEXTS, vocab_size=300, context_length=12).to_json() == bpe.to_json()


@pytest.mark.parametrize("text", ["", "{}", "[]", "not json", '{"model": 3}'])
def test_what_is_no_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match="Not a tokenizer"):
        BPETokenizer.from_json(text, 12)
