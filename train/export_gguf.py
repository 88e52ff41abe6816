# SPDX-License-Identifier: MIT
"""Writes a checkpoint as GGUF: experts MXFP4, other matrices Q8_0, the rest F32.

    export_gguf.py CHECKPOINT... models/tandem-mini.gguf

Of several checkpoints the mean of each weight is written.
"""
import sys

import torch

import bpe
import gguf_io as G

# model.py's name -> GGUF's name, type
LAYER = [("attn_norm", "attn_norm.weight", G.F32), ("q", "attn_q.weight", G.Q8_0), ("k", "attn_k.weight", G.Q8_0),
         ("v", "attn_v.weight", G.Q8_0), ("o", "attn_output.weight", G.Q8_0), ("qb", "attn_q.bias", G.F32),
         ("kb", "attn_k.bias", G.F32), ("vb", "attn_v.bias", G.F32), ("ob", "attn_output.bias", G.F32),
         ("sinks", "attn_sinks.weight", G.F32), ("ffn_norm", "post_attention_norm.weight", G.F32),
         ("router", "ffn_gate_inp.weight", G.F32), ("rb", "ffn_gate_inp.bias", G.F32),
         ("gate", "ffn_gate_exps.weight", G.MXFP4), ("up", "ffn_up_exps.weight", G.MXFP4),
         ("down", "ffn_down_exps.weight", G.MXFP4), ("gb", "ffn_gate_exps.bias", G.F32),
         ("ub", "ffn_up_exps.bias", G.F32), ("db", "ffn_down_exps.bias", G.F32)]
TOP = [("embed", "token_embd.weight", G.Q8_0), ("norm", "output_norm.weight", G.F32), ("unembed", "output.weight", G.Q8_0)]


def names(n_layers):
    return TOP + [(f"layers.{i}.{a}", f"blk.{i}.{b}", k) for i in range(n_layers) for a, b, k in LAYER]


def keys(c, tok):
    a = "gpt-oss."
    special = {i for s, i in tok.special.items()}
    return [
        ("general.architecture", G.STRING, "gpt-oss"), ("general.name", G.STRING, "tandem-mini"),
        ("general.description", G.STRING, "A small gpt-oss trained from scratch on generated text"),
        ("general.license", G.STRING, "mit"),
        ("general.alignment", G.U32, 32), ("general.file_type", G.U32, 38), ("general.quantization_version", G.U32, 2),
        (a + "block_count", G.U32, c["n_layers"]), (a + "context_length", G.U32, c["n_ctx"]),
        (a + "embedding_length", G.U32, c["hidden"]), (a + "feed_forward_length", G.U32, c["ff"]),
        (a + "attention.head_count", G.U32, c["n_heads"]), (a + "attention.head_count_kv", G.U32, c["n_kv"]),
        (a + "rope.freq_base", G.FLOAT, c["rope_base"]), (a + "attention.layer_norm_rms_epsilon", G.FLOAT, 1e-5),
        (a + "expert_count", G.U32, c["n_experts"]), (a + "expert_used_count", G.U32, c["top_k"]),
        (a + "attention.key_length", G.U32, c["head_dim"]), (a + "attention.value_length", G.U32, c["head_dim"]),
        (a + "expert_feed_forward_length", G.U32, c["ff"]), (a + "vocab_size", G.U32, c["n_vocab"]),
        (a + "attention.sliding_window", G.U32, c["window"]), (a + "rope.scaling.type", G.STRING, "yarn"),
        (a + "rope.scaling.factor", G.FLOAT, c["rope_factor"]),
        (a + "rope.scaling.original_context_length", G.U32, c["rope_original"]),
        ("tokenizer.ggml.model", G.STRING, "gpt2"), ("tokenizer.ggml.pre", G.STRING, "gpt-4o"),
        ("tokenizer.ggml.tokens", G.ARRAY, (G.STRING, tok.tokens)),
        ("tokenizer.ggml.token_type", G.ARRAY, (G.I32, [3 if i in special else 1 for i in range(len(tok.tokens))])),
        ("tokenizer.ggml.merges", G.ARRAY, (G.STRING, [" ".join(m) for m in tok.merges])),
        ("tokenizer.ggml.bos_token_id", G.U32, tok.special["<|startoftext|>"]),
        ("tokenizer.ggml.eos_token_id", G.U32, tok.special["<|return|>"]),
        ("tokenizer.ggml.padding_token_id", G.U32, tok.special["<|endoftext|>"]),
        ("tokenizer.ggml.add_bos_token", G.BOOL, False)]


def main():
    *paths, out = sys.argv[1:]
    ckpts = [torch.load(p) for p in paths]
    c = ckpts[-1]["config"]
    w = {k: sum(x["model"][k] for x in ckpts) / len(ckpts) for k in ckpts[-1]["model"]}
    G.write(out, keys(c, bpe.Tokenizer()), [(b, k, w[a].numpy()) for a, b, k in names(c["n_layers"])])


def load_model(path):
    """The file as a torch model, weights as they are in it."""
    from model import Config, Model
    k, t = G.read(path)
    a = "gpt-oss."
    c = Config(n_vocab=k[a + "vocab_size"], n_layers=k[a + "block_count"], hidden=k[a + "embedding_length"],
               n_heads=k[a + "attention.head_count"], n_kv=k[a + "attention.head_count_kv"],
               n_experts=k[a + "expert_count"], top_k=k[a + "expert_used_count"], ff=k[a + "expert_feed_forward_length"],
               window=k[a + "attention.sliding_window"], rope_base=k[a + "rope.freq_base"],
               rope_factor=k[a + "rope.scaling.factor"], rope_original=k[a + "rope.scaling.original_context_length"],
               n_ctx=k[a + "context_length"])
    m = Model(c)
    m.load_state_dict({x: torch.from_numpy(t[y]) for x, y, _ in names(c.n_layers)})
    return m.eval(), k


if __name__ == "__main__":
    main()
