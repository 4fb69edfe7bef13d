"""Class-wise text prompts on open_clip's built-in and custom towers and on a Hugging Face one."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from transformers import BertConfig

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_text import hook_text
from clip_decomp.prompts import ClassPrompts
from clip_decomp.prompts.classwise import _parts
from clip_decomp.tokenizer import BPETokenizer

NAMES = ("apple", "pear", "plum")
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 8}
MEAN_STD = ((0.5,) * 3, (0.25,) * 3)


def words_tokenizer(texts):
    """Like BERT's: [CLS] letters [SEP] [PAD] ..."""
    rows = torch.zeros(len(texts), 20, dtype=torch.long)
    for row, text in zip(rows, texts, strict=True):
        ids = [1, *(3 + ord(letter) % 30 for letter in text.lower()), 2]
        row[: len(ids)] = torch.tensor(ids)
    return rows


@pytest.fixture(params=["built-in", "custom", "hugging-face"])
def any_model(request, make_clip, tokenizer, randomize):
    if request.param == "built-in":
        return HookedCLIP(make_clip(), tokenizer, *MEAN_STD)
    text = CLIPTextCfg(context_length=16, vocab_size=tokenizer.vocab_size, width=16, heads=2, layers=2)
    clip = CustomTextCLIP(24, CLIPVisionCfg(**VISION), text)
    if request.param == "custom":
        return HookedCLIP(randomize(clip), tokenizer, *MEAN_STD)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=24,
    )  # fmt: skip
    clip.text = HFTextEncoder("", 24, config=config, pooler_type="mean_pooler", proj_type="linear", pretrained=False)
    return HookedCLIP(randomize(clip), words_tokenizer, *MEAN_STD)


@pytest.mark.parametrize("position", ["front", "middle", "end"])
def test_contexts_of_real_words_are_these_words_texts(any_model, position):
    """With the embeddings of known words as context, the vectors are those of the written texts."""
    tower = hook_text(any_model.clip)
    words = any_model.tokenizer(["", "apple pear"])
    first = int((words[0] == words[1])[0])
    ids = words[1, first : first + 2]
    prompts = ClassPrompts(any_model, NAMES, length=2, position=position)
    with torch.no_grad():
        prompts.context.copy_(tower.table[ids].expand(3, -1, -1))
    written = prompts.tokens.clone()
    for row, slots in zip(written, prompts.slots, strict=True):
        row[slots >= 0] = ids[slots[slots >= 0]]
    expected = F.normalize(any_model.clip.encode_text(written), dim=-1)
    torch.testing.assert_close(prompts.vectors(), expected)
    order = [k for k in prompts.slots[0].tolist() if k >= 0]
    assert order == [0, 1]
    name = (prompts.slots[0] < 0).nonzero()[first, 0].item() - first
    assert name == {"front": 0, "middle": 1, "end": 2}[position]


def test_gradients_reach_every_context_and_recomputing_gives_the_same(any_model):
    prompts = ClassPrompts(any_model, NAMES, length=3)
    prompts.vectors()[:, 0].sum().backward()
    gradient, prompts.context.grad = prompts.context.grad, None
    assert gradient.abs().amax((1, 2)).min() > 0
    prompts.vectors(recompute=True)[:, 0].sum().backward()
    torch.testing.assert_close(prompts.context.grad, gradient)


def test_a_word_goes_before_the_context(model):
    """As in a written text: the word, the context, the name."""
    ids = model.tokenizer(["a photo of a pear."])[0]
    count = int((ids == model.tokenizer.end).nonzero()[0]) - len(_parts(model.tokenizer, "pear.")[1]) - 1
    word = "sudo"
    prompts = ClassPrompts(model, NAMES, length=count, words="a photo of a")
    expected = model.encode_text([f"{word} a photo of a {name}." for name in NAMES], normalize=True)
    torch.testing.assert_close(prompts.vectors(word=f"{word} "), expected)


def test_positions_that_cannot_matter_are_not_run(any_model):
    lengths, tower = [], hook_text(any_model.clip)
    texts = any_model.tokenizer(["apple", "pear plum fig"])
    found = tower.run_with_hooks(texts, fwd_hooks=[("hook_embed", lambda value, hook: lengths.append(value.shape[1]))])
    torch.testing.assert_close(found, any_model.clip.encode_text(texts))
    causal = isinstance(any_model.tokenizer, BPETokenizer)
    assert lengths == [int((texts[1] == any_model.tokenizer.end).nonzero()[0]) + 1 if causal else texts.shape[1]]


def test_nothing_stays_on_the_model(any_model):
    texts = any_model.tokenizer(list(NAMES))
    before = any_model.clip.encode_text(texts)
    prompts = ClassPrompts(any_model, NAMES, length=2)
    prompts.vectors()
    assert torch.equal(any_model.clip.encode_text(texts), before)
    torch.testing.assert_close(hook_text(any_model.clip)(texts), before)
    assert sum(each.numel() for each in prompts.parameters()) == prompts.count == 3 * 2 * 16


def test_starts(model):
    own, shared = (ClassPrompts(model, NAMES, length=3, shared=each, seed=1) for each in (False, True))
    assert own.context.shape == (3, 3, 16)
    assert shared.context.shape == (1, 3, 16)
    assert not torch.equal(own.context[0], own.context[1])
    assert torch.equal(ClassPrompts(model, NAMES, length=3, seed=1).context, own.context)
    ids = model.tokenizer(["a photo of a"])[0]
    count = int((ids == model.tokenizer.end).nonzero()[0]) - 1
    written = ClassPrompts(model, NAMES, length=count, words="a photo of a")
    expected = model.encode_text([f"a photo of a {name}." for name in NAMES], normalize=True)
    torch.testing.assert_close(written.vectors(), expected)
    with pytest.raises(SettingError, match=f"'a photo of a' is {count} tokens"):
        ClassPrompts(model, NAMES, length=count + 1, words="a photo of a")


def test_saved_prompts_work_on_their_text_tower_alone(model, make_clip, tokenizer, tmp_path):
    prompts = ClassPrompts(model, NAMES, length=2, position="middle")
    prompts.save(str(tmp_path), defense="cbpt")
    again = ClassPrompts.load(str(tmp_path), model)
    assert torch.equal(again.vectors(), prompts.vectors())
    other = make_clip()
    with torch.no_grad():
        other.text_projection.add_(1)
    with pytest.raises(ModelError, match="another text tower"):
        ClassPrompts.load(tmp_path, HookedCLIP(other, tokenizer, *MEAN_STD))
    (tmp_path / "prompts.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        ClassPrompts.load(tmp_path, model)
    with pytest.raises(ModelError, match="holds no prompts"):
        ClassPrompts.load(tmp_path / "nowhere", model)


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["apple"], {}, "two classes or more"),
        (["apple", "pear", "apple"], {}, r"named once, not \['apple'\]"),
        (["apple", "p" * 30], {}, "takes .* tokens and its prompts 4: more than the 14"),
        (["apple", "pear"], {"length": 14}, "more than the 14"),
        (["apple", "pear"], {"length": 0}, "length of 1 or more"),
        (["apple", "pear"], {"position": "back"}, "'back'"),
    ],
)
def test_bad_requests_are_named(model, names, settings, message):
    with pytest.raises(SettingError, match=message):
        ClassPrompts(model, names, **settings)


def test_clips_own_tokenizer_pads_with_zeros():
    clip = CLIP(24, CLIPVisionCfg(**VISION), CLIPTextCfg(context_length=77, width=16, heads=2, layers=1)).eval()
    model = HookedCLIP(clip, open_clip.tokenizer.tokenize, *MEAN_STD)
    prompts = ClassPrompts(model, ("apple", "a hot-air balloon"), length=4, words="a photo of a")
    expected = model.encode_text(["a photo of a apple.", "a photo of a a hot-air balloon."], normalize=True)
    torch.testing.assert_close(prompts.vectors(), expected)
