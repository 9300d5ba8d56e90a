"""Makes GGUF models of a third of a megabyte that llama.cpp loads in milliseconds.

A chat model that says the words it was made for, whatever it is asked, so that a test knows which
model spoke; and two BERT-like ones for embeddings and reranking, whose figures mean nothing.

How a chat model is made to say its words: it is a llama of one layer whose attention and
feed-forward weights are next to nothing, so that the next token depends on the last one alone.
Every token's embedding is a random direction plus a constant in dimension 0. The output row of the
first word looks at dimension 0 only, and so wins after any token; that of each later word, and of the
end of turn, looks at the direction of the word before it, and wins there.
"""

from __future__ import annotations

import string
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

WIDTH, HEADS, HIDDEN = 64, 4, 128
CONTEXT = 1 << 17  # room for an answer that takes many seconds
BERT_CONTEXT = 512
START, AFTER = 2.4, 5.0  # pull of the first word anywhere, and of a word after the one before it
NOISE = 0.02

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPACE = "\u0120"  # how byte-level BPE writes a space


class Tensors:
    """Random and constant tensors from one seed, added to a file by name."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int) -> None:
        self.writer = writer
        self.random = np.random.default_rng(seed)

    def noise(self, *shape: int, scale: float = NOISE) -> Matrix:
        return (self.random.standard_normal(shape) * scale).astype(np.float32)

    def directions(self, rows: int) -> Matrix:
        found = self.noise(rows, WIDTH, scale=1.0)
        lengths: Matrix = np.linalg.norm(found, axis=1, keepdims=True).astype(np.float32)
        return found / lengths

    def add(self, name: str, values: Matrix) -> None:
        self.writer.add_tensor(name, values)

    def linear(self, name: str, out: int, given: int) -> None:
        self.add(f"{name}.weight", self.noise(out, given))

    def linear_with_bias(self, name: str, out: int, given: int) -> None:
        self.add(f"{name}.weight", self.noise(out, given, scale=0.2))
        self.add(f"{name}.bias", self.noise(out))

    def norm(self, name: str, bias: bool = False) -> None:
        self.add(f"{name}.weight", np.ones(WIDTH, np.float32))
        if bias:
            self.add(f"{name}.bias", np.zeros(WIDTH, np.float32))


def printable_bytes() -> list[str]:
    """The 256 bytes as byte-level BPE writes them: themselves if printable, else from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    found, spare = [], 0x100
    for byte in range(256):
        if byte in printable:
            found.append(chr(byte))
        else:
            found.append(chr(spare))
            spare += 1
    return found


def _describe(writer: gguf.GGUFWriter, name: str, context: int) -> None:
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_block_count(1)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)


def _vocabulary(writer: gguf.GGUFWriter, kind: str, tokens: list[str], types: list[Any]) -> None:
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([int(t) for t in types])


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def chat(path: Path, says: str, seed: int = 1) -> Path:
    """Writes a chat model that answers with the words of `says`, which must all differ."""
    words = says.split()
    assert len(set(words)) == len(words), "a word that came twice would have two followers"
    tokens = [*CONTROLS, *printable_bytes()]
    merges = []
    for word in words:
        for i, letter in enumerate(word):
            if (longer := SPACE + word[: i + 1]) not in tokens:
                tokens.append(longer)
                merges.append(f"{SPACE}{word[:i]} {letter}")
    chain = [tokens.index(SPACE + word) for word in words] + [tokens.index("<|im_end|>")]

    writer = gguf.GGUFWriter(str(path), "llama")
    made = Tensors(writer, seed)
    embedding, output = made.directions(len(tokens)), made.noise(len(tokens), WIDTH)
    embedding[:, 0] = 0.4
    output[chain[0], 0] = START / 0.4
    for before, after in pairwise(chain):
        output[after, 1:] += AFTER * embedding[before, 1:]
    follower = dict(pairwise(chain))
    best = (embedding @ output.T).argmax(axis=1)
    assert all(best[t] == follower.get(t, chain[0]) for t in range(len(tokens))), "take another seed"

    _describe(writer, path.stem, CONTEXT)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    types = [gguf.TokenType.CONTROL] * len(CONTROLS) + [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROLS))
    _vocabulary(writer, "gpt2", tokens, types)
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(chain[-1])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    made.add("token_embd.weight", embedding)
    made.add("output.weight", output)
    made.norm("output_norm")
    made.norm("blk.0.attn_norm")
    made.norm("blk.0.ffn_norm")
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        made.linear(f"blk.0.{name}", WIDTH, WIDTH)
    made.linear("blk.0.ffn_gate", HIDDEN, WIDTH)
    made.linear("blk.0.ffn_up", HIDDEN, WIDTH)
    made.linear("blk.0.ffn_down", WIDTH, HIDDEN)
    _finish(writer)
    return path


def bert(path: Path, rerank: bool = False, seed: int = 1) -> Path:
    """Writes an embedding model, or with `rerank` one that scores a query and a document."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    types: list[Any] = [gguf.TokenType.CONTROL] * len(tokens)
    types[1] = gguf.TokenType.UNKNOWN
    inside = string.ascii_lowercase + string.digits
    # llama.cpp's WordPiece marks the start of a word; what has no mark goes on with one.
    tokens += ["\u2581" + c for c in inside + string.punctuation] + list(inside)
    types += [gguf.TokenType.NORMAL] * (len(tokens) - len(types))

    writer = gguf.GGUFWriter(str(path), "bert")
    made = Tensors(writer, seed)
    _describe(writer, path.stem, BERT_CONTEXT)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if rerank else gguf.PoolingType.MEAN)
    _vocabulary(writer, "bert", tokens, types)
    writer.add_token_type_count(2)
    for add, token in (
        (writer.add_pad_token_id, "[PAD]"),
        (writer.add_unk_token_id, "[UNK]"),
        (writer.add_bos_token_id, "[CLS]"),
        (writer.add_eos_token_id, "[SEP]"),
        (writer.add_sep_token_id, "[SEP]"),
        (writer.add_mask_token_id, "[MASK]"),
    ):
        add(tokens.index(token))
    made.add("token_embd.weight", made.directions(len(tokens)))
    made.add("token_types.weight", made.noise(2, WIDTH))
    made.add("position_embd.weight", made.noise(BERT_CONTEXT, WIDTH))
    made.norm("token_embd_norm", bias=True)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        made.linear_with_bias(f"blk.0.{name}", WIDTH, WIDTH)
    made.norm("blk.0.attn_output_norm", bias=True)
    made.linear_with_bias("blk.0.ffn_up", HIDDEN, WIDTH)
    made.linear_with_bias("blk.0.ffn_down", WIDTH, HIDDEN)
    made.norm("blk.0.layer_output_norm", bias=True)
    if rerank:
        made.linear_with_bias("cls", WIDTH, WIDTH)
        made.linear_with_bias("cls.output", 1, WIDTH)
    _finish(writer)
    return path
