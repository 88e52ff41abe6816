// SPDX-License-Identifier: MIT
// The two tables: commands and options. Data only; config.c reads it.
#include "app/options_impl.h"

#include "app/commands.h"

const struct td_command td_commands[] = {
    {"run", td_cmd_run, "[-m MODEL] [-p PROMPT] [options]", 0, 0, false,
     "answer a prompt, or chat when none is given",
     "Reads the prompt and streams the answer. Without -p it chats: the conversation goes on from\n"
     "turn to turn and only what is new is read. Keys: Ctrl-C stops the answer, Ctrl-D leaves;\n"
     "/help lists what else the prompt understands. Without -p and with input that is not a\n"
     "terminal, the input is the prompt.\n"
     "\n"
     "The model thinks before it answers. On a terminal this reasoning is shown dimmed; otherwise\n"
     "only the answer goes to the output, unless --show-reasoning is given.\n"
     "\n"
     "Without -m it is the small model that comes with tandem, share/tandem/tandem-mini.gguf "
     "beside\n"
     "the program's folder, which knows a few tasks: recall, short sums, copying, stories."},
    {"eval", td_cmd_eval,
     "-m MODEL (--tokens FILE (--logits OUT.npy | --kl BASE.npy) | -f TEXT --ppl)", 0, 0, true,
     "logits, perplexity, or the distance to reference logits",
     "--tokens FILE --logits OUT.npy writes the logits of every token as float32 .npy of shape\n"
     "(n_tokens, n_vocab); with --last only the last row, (1, n_vocab).\n"
     "\n"
     "-f TEXT --ppl prints the perplexity and its standard error. The text is cut into windows of\n"
     "--ctx tokens that do not overlap; the second half of each is scored, the first is context,\n"
     "and a rest shorter than a window is left out (as llama-perplexity does, so that numbers\n"
     "compare). A text shorter than one window is one window.\n"
     "\n"
     "--tokens FILE --kl BASE.npy compares with reference logits of the same tokens: mean, 99th\n"
     "percentile and maximum over the positions of KL(reference || ours) in nats, how often the\n"
     "most likely token agrees, and the normalised mean square error of the logits."},
    {"bench", td_cmd_bench, "-m MODEL [-p N,..] [-n N,..] [-d N,..] [options]", 0, 0, true,
     "speed of prompt and answer, and how far from the machine's limits",
     "Each row is one test, at each depth D of -d: pp N reads a prompt of N tokens, tg N writes N\n"
     "tokens, both behind D tokens that are already in the KV cache. A row is warmed up once and\n"
     "repeated -r times; the table shows the median and the range. Tokens are random, from a\n"
     "fixed seed.\n"
     "\n"
     "GB/s and GFLOP/s are the bytes and operations that the program needs, by its own count,\n"
     "divided by the time; per cent are of what `tandem probe --quick` measures on this machine.\n"
     "\"of loop\" is the bar for writing: the same bytes per second against a plain loop that "
     "reads\n"
     "the model's bytes with as many threads, before and after each repetition.\n"
     "-m synth:gpt-oss-120b measures a model that has not been downloaded.\n"
     "\n"
     "--ops adds a table for each test: every kind of operation of the program with its time for\n"
     "one repetition, the part of it that threads waited for each other, the bytes of weights and\n"
     "KV and the operations it needs, and how near that is to this machine's limit: the slower of\n"
     "reading the bytes and multiplying in the type it multiplies in (16-bit integers at half the\n"
     "speed of 8-bit ones).\n"
     "\n"
     "With --prefill each prompt of -p is read by a peer (tandem prefill) and the answer's tokens\n"
     "of -n, if given, are written here: seconds until the first token and until the last one,\n"
     "seconds of computing there, of transfer, and of transfer that computing did not hide.\n"
     "--prefill-policy never measures the same here, without the peer."},
    {"inspect", td_cmd_inspect, "MODEL [--tensors] [--program] [--json]", 0, 1, false,
     "what a model file holds",
     "Prints a summary. --tensors lists every tensor, --program the operations of a forward pass\n"
     "in the order they run; --json prints everything asked for as one JSON object."},
    {"tokenize", td_cmd_tokenize, "-m MODEL [--special] [--json] (TEXT | -f FILE)", 0, 1, true,
     "text to token ids",
     "Prints the ids of TEXT, separated by spaces. --special reads the names of special tokens in\n"
     "the text as these tokens; otherwise they are plain text. Needs only the file's vocabulary."},
    {"detokenize", td_cmd_detokenize, "-m MODEL (ID... | -f FILE)", 0, 1u << 20, true,
     "token ids to text",
     "Prints the bytes of the ids, separated by white space or as a JSON array. The inverse of\n"
     "tokenize: every text comes back byte for byte."},
    {"synth", td_cmd_synth, "NAME OUT.gguf [options]", 2, 2, false,
     "write a model of a known shape with random weights",
     "NAME is gpt-oss-20b, gpt-oss-120b or tiny. The file is as large as the real one, computes "
     "as\n"
     "much and writes noise: it is for measuring and testing. The same seed and shape give the\n"
     "same bytes on every machine. The options change the shape; -m synth:NAME,layers=4 does the\n"
     "same without a file."},
    {"probe", td_cmd_probe, "[options]", 0, 0, false, "measure this machine",
     "Measures how fast this machine reads memory and multiplies: bytes per second, 8-bit integer\n"
     "and 32-bit float operations per second, with one thread and with all. A multiplication with\n"
     "its addition counts as two operations."},
    {"key", td_cmd_key, "(new | show) FILE", 2, 2, false, "the secret that pairs two machines",
     "new writes 256 random bits to FILE, which only its owner can read, and prints their\n"
     "fingerprint; show prints the fingerprint of a key. Two machines work in tandem when both "
     "hold\n"
     "the same key: copy the file over a channel you trust and compare the fingerprints. Whoever "
     "has\n"
     "the file may use both machines."},
    {"prefill", td_cmd_prefill, "-m MODEL --listen HOST:PORT --key FILE [options]", 0, 0, true,
     "read prompts for another machine",
     "Waits for machines that hold the same key and the same model, reads prompts for them and\n"
     "sends the KV cache while it is being made: layer by layer, encrypted (TLS 1.3). The other\n"
     "machine writes the answer: tandem run --prefill HOST:PORT --key FILE. Ctrl-C ends it.\n"
     "\n"
     "Each of --slots requests at a time has its own KV cache, which is kept for the next prompt\n"
     "that begins alike; --max-kv limits them all together. Without --key it listens on\n"
     "loopback addresses only, in the clear."},
    {"doctor", td_cmd_doctor, "--prefill HOST:PORT --key FILE [-m MODEL]", 0, 0, false,
     "whether two machines work in tandem, and from how many tokens it pays",
     "Asks a prefill machine step by step, one line each: is it reachable, does it hold the same\n"
     "key and the same model, is a short prompt's KV the same there and here, how long is a round\n"
     "trip, how fast the link, how fast does each end read, and from how many prompt tokens on\n"
     "prefill there pays; or why not. Without -m it is the small model that comes with tandem.\n"
     "Exit 0 when all is well, 1 when a step failed."},
    {"plan", td_cmd_plan, "-m MODEL [--machines LIST] [--link LINK] [options]", 0, 0, false,
     "what machines, alone and in pairs, would do with a model",
     "Predicts how fast machines read a prompt and write an answer, from the model's shape, the\n"
     "machines' nameplates and a calibration on published measurements, both built in. MODEL is a\n"
     "name of the built-in table (gpt-oss-120b, Qwen3-30B-A3B, Llama-3.1-8B ...), a GGUF file, or\n"
     "synth:NAME. With --link also every pair: one machine reads the prompt and streams the KV\n"
     "cache, the other answers; what it gains, from which prompt length, and when not to; and\n"
     "for machines that do not hold the model, two to four of them together. -o html writes one\n"
     "page with charts and sliders.\n"
     "\n"
     "A machine of one's own is the file that `tandem probe -o` writes; better, `tandem bench -o\n"
     "json`, whose speeds calibrate it: tandem plan -m MODEL --machines bench.json,dgx-spark.\n"
     "\n"
     "--explain says where each second goes. --golden gives the balance of compute and bandwidth\n"
     "that a workload wants, and what such a machine would be; --ttft S and --tps N say how fast.\n"
     "--table published predicts tables that others have measured.\n"
     "\n"
     "--validate FILE leaves every model of a table of measurements out in turn, fits the rest "
     "and\n"
     "says how far off the predictions are. FILE has the columns of data/measurements.csv; of a\n"
     "bench (.json) it predicts every row, from --machines PROBE.json and --measured alone.\n"
     "--measured FILE adds one's own measurements to the calibration."},
    {"serve", td_cmd_serve, "[-m MODEL] [--host ADDRESS] [--port PORT] [options]", 0, 0, false,
     "a server with OpenAI's API, and a page to chat in",
     "Answers OpenAI's API (chat completions, completions, responses, models) and what Ollama's\n"
     "clients need, and shows a chat page at /. /health and /metrics tell how it is. It listens "
     "on\n"
     "this machine only unless --host says otherwise; then it wants --api-key, or --allow-public.\n"
     "\n"
     "Up to --slots answers are written at once, more wait in a queue. What is known of finished\n"
     "conversations is kept for their next turn as far as --kv-mem allows. With --prefill, "
     "prompts\n"
     "may be read by another machine. Ctrl-C or SIGTERM lets running answers end, a second one\n"
     "does not. Without -m it is the small model that comes with tandem. docs/SERVE.md has more."},
};
const uint32_t td_n_commands = sizeof(td_commands) / sizeof(td_commands[0]);

enum {
    RUN = 1 << 0,
    EVAL = 1 << 1,
    BENCH = 1 << 2,
    INSPECT = 1 << 3,
    TOKENIZE = 1 << 4,
    DETOKENIZE = 1 << 5,
    SYNTH = 1 << 6,
    PROBE = 1 << 7,
    KEY = 1 << 8,
    PREFILL = 1 << 9,
    DOCTOR = 1 << 10,
    PLAN = 1 << 11,
    SERVE = 1 << 12,
    // Where a prompt may be read elsewhere, and where there is an engine.
    SPLIT = RUN | EVAL | BENCH | SERVE,
    ENGINE = SPLIT | PREFILL | DOCTOR,
    ALL = 0x1fff,
};

// Rows of one command appear in its help in this order.
const struct td_opt_row td_options[TD_N_OPTS] = {
    [TD_OPT_MODEL] = {"--model", 'm', TD_OPT_TYPE_TEXT, "MODEL", NULL, 0, 0,
                      ENGINE | INSPECT | TOKENIZE | DETOKENIZE,
                      "GGUF file (any part of a split one), or synth:NAME[,seed=S,layers=L,...] "
                      "for random weights of that shape without a file"},

    [TD_OPT_PROMPT] = {"--prompt", 'p', TD_OPT_TYPE_TEXT, "TEXT", NULL, 0, 0, RUN,
                       "the prompt; - reads it from the standard input"},
    [TD_OPT_PROMPT_FILE] = {"--file", 'f', TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, RUN,
                            "read the prompt from FILE"},
    [TD_OPT_N_PREDICT] = {"--n-predict", 'n', TD_OPT_TYPE_COUNT, "TOKENS", "0", 0, UINT32_MAX, RUN,
                          "length of an answer at most; 0: until it ends or the context is full"},
    [TD_OPT_TEMP] = {"--temp", 0, TD_OPT_TYPE_REAL, "T", "1.0", 0, 100, RUN,
                     "temperature; 0 always takes the most likely token"},
    [TD_OPT_TOP_K] = {"--top-k", 0, TD_OPT_TYPE_COUNT, "K", "0", 0, UINT32_MAX, RUN,
                      "draw from the K most likely tokens; 0: from all"},
    [TD_OPT_TOP_P] = {"--top-p", 0, TD_OPT_TYPE_REAL, "P", "1.0", 0, 1, RUN,
                      "draw from the most likely tokens that together reach P"},
    [TD_OPT_MIN_P] = {"--min-p", 0, TD_OPT_TYPE_REAL, "P", "0.0", 0, 1, RUN,
                      "leave out tokens below P times the most likely one"},
    [TD_OPT_SYSTEM] = {"--system", 0, TD_OPT_TYPE_TEXT, "TEXT", NULL, 0, 0, RUN,
                       "instructions that stand before the conversation"},
    [TD_OPT_REASONING] = {"--reasoning", 0, TD_OPT_TYPE_CHOICE, "low|medium|high", "medium", 0, 0,
                          RUN, "how long the model thinks before it answers"},
    [TD_OPT_SHOW_REASONING] = {"--show-reasoning", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, RUN,
                               "write the reasoning also when the output is not a terminal"},
    [TD_OPT_RAW] = {"--raw", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, RUN,
                    "no chat format: continue the prompt as plain text"},
    [TD_OPT_IGNORE_EOS] = {"--ignore-eos", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, RUN,
                           "go on after the answer has ended, up to -n or the context: for "
                           "measuring"},
    [TD_OPT_STATS] = {"--stats", 0, TD_OPT_TYPE_CHOICE, "text|json|none", "text", 0, 0, RUN | EVAL,
                      "the closing line on the standard error (eval: with --prefill); json: one "
                      "object on one line, the last that is written there"},

    [TD_OPT_TOKENS] = {"--tokens", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, EVAL,
                       "token ids, separated by white space; - is the standard input"},
    [TD_OPT_LOGITS] = {"--logits", 0, TD_OPT_TYPE_TEXT, "OUT.npy", NULL, 0, 0, EVAL,
                       "write the logits of every token"},
    [TD_OPT_LAST] = {"--last", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, EVAL,
                     "with --logits: only the last token's"},
    [TD_OPT_KL] = {"--kl", 0, TD_OPT_TYPE_TEXT, "BASE.npy", NULL, 0, 0, EVAL,
                   "compare with these reference logits"},
    [TD_OPT_TEXT_FILE] = {"--file", 'f', TD_OPT_TYPE_TEXT, "TEXT", NULL, 0, 0, EVAL,
                          "text to score; - is the standard input"},
    [TD_OPT_PPL] = {"--ppl", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, EVAL,
                    "with -f: print the perplexity"},

    [TD_OPT_N_PROMPT] = {"--n-prompt", 'p', TD_OPT_TYPE_LIST, "N,..", "512", 0, UINT32_MAX / 2,
                         BENCH, "prompt lengths to measure, in tokens; 0: none"},
    [TD_OPT_N_GEN] = {"--n-gen", 'n', TD_OPT_TYPE_LIST, "N,..", "64", 0, UINT32_MAX / 2, BENCH,
                      "answer lengths to measure, in tokens; 0: none"},
    [TD_OPT_DEPTH] = {"--depth", 'd', TD_OPT_TYPE_LIST, "N,..", "0", 0, UINT32_MAX / 2, BENCH,
                      "tokens already in the KV cache"},
    [TD_OPT_FILL] =
        {"--fill", 0, TD_OPT_TYPE_CHOICE, "compute|noise", "compute", 0, 0, BENCH,
         "how the KV cache is filled up to -d: by computing, or with noise, which takes "
         "moments and times the same work"},
    [TD_OPT_REPEAT] = {"--repetitions", 'r', TD_OPT_TYPE_COUNT, "R", "5", 1, 1000, BENCH,
                       "measurements of each row"},
    [TD_OPT_FORMAT] = {"--output", 'o', TD_OPT_TYPE_CHOICE, "md|json|csv", "md", 0, 0, BENCH,
                       "a table to read, or for programs; JSON fields are named as llama-bench's"},
    [TD_OPT_OPS] = {"--ops", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, BENCH,
                    "also print where the time of each test goes, by kind of operation"},
    [TD_OPT_SAVE] = {"--save", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, BENCH,
                     "also write the results to FILE as JSON, for bench/compare.py"},

    [TD_OPT_CTX] = {"--ctx", 'c', TD_OPT_TYPE_COUNT, "TOKENS", NULL, 1, UINT32_MAX / 2, RUN,
                    "tokens of prompt and answer together; default: what the model was trained "
                    "for, at most 8192, and less when memory is short"},
    [TD_OPT_CTX_EVAL] = {"--ctx", 'c', TD_OPT_TYPE_COUNT, "TOKENS", "512", 4, UINT32_MAX / 2, EVAL,
                         "with --ppl: length of a window"},
    [TD_OPT_CTX_PREFILL] = {"--ctx", 'c', TD_OPT_TYPE_COUNT, "TOKENS", NULL, 2, 1 << 24, PREFILL,
                            "tokens of a request at most; default: what the model was trained "
                            "for, as far as --max-kv allows"},
    [TD_OPT_CHUNK] = {"--chunk", 0, TD_OPT_TYPE_COUNT, "TOKENS", "512", 1, 65536, ENGINE,
                      "prompt tokens computed at once; more is faster and needs more memory, the "
                      "results are the same to the bit"},
    [TD_OPT_PRECISION] = {"--precision", 0, TD_OPT_TYPE_CHOICE, "default|high|fine", "default", 0,
                          0, ENGINE,
                          "activations are blocks of 8 or 16 bits; fine: of 16 bits everywhere, "
                          "slower; high: 32-bit floats, slower still"},
    [TD_OPT_KV] = {"--kv", 0, TD_OPT_TYPE_CHOICE, "f16|f32", "f16", 0, 0, ENGINE,
                   "type of cached keys and values"},
    [TD_OPT_SEED] = {"--seed", 's', TD_OPT_TYPE_COUNT, "S", NULL, 0, UINT64_MAX, RUN | SYNTH,
                     "seed of the random numbers; the same seed gives the same result"},
    [TD_OPT_THREADS] = {"--threads", 't', TD_OPT_TYPE_COUNT, "T", NULL, 1, 1024,
                        ENGINE | SYNTH | PROBE,
                        "threads; default: one for each CPU this process may use"},

    [TD_OPT_PREFILL] = {"--prefill", 0, TD_OPT_TYPE_TEXT, "HOST:PORT,..", NULL, 0, 0,
                        SPLIT | DOCTOR,
                        "have prompts read there, by `tandem prefill`, when that is faster; of "
                        "several the best is asked, the next when it fails"},
    [TD_OPT_LISTEN] = {"--listen", 0, TD_OPT_TYPE_TEXT, "HOST:PORT", NULL, 0, 0, PREFILL,
                       "address to wait at; port 0: any that is free"},
    [TD_OPT_KEY] = {"--key", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, SPLIT | PREFILL | DOCTOR,
                    "the pairing secret, the same on both machines (tandem key new FILE)"},
    [TD_OPT_POLICY] = {"--prefill-policy", 0, TD_OPT_TYPE_CHOICE, "auto|require|never", "auto", 0,
                       0, SPLIT,
                       "auto: there when it is faster, here when it is not or there is trouble; "
                       "require: there, or fail (bench: unless set); never: here"},
    [TD_OPT_KV_WIRE] = {"--kv-wire", 0, TD_OPT_TYPE_CHOICE, "f16|q8_0", "f16", 0, 0, SPLIT | DOCTOR,
                        "how keys and values travel: as they are cached, or in about half the "
                        "bytes with a little noise"},
    [TD_OPT_OTHER_WEIGHTS] = {"--allow-different-weights", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0,
                              SPLIT | DOCTOR,
                              "take KV of a model with other weights; every answer then says so"},
    [TD_OPT_CHECKPOINT] = {"--checkpoint", 0, TD_OPT_TYPE_COUNT, "TOKENS", "4096", 1, 1 << 24,
                           SPLIT,
                           "how often what has come is made whole, so that it is kept when the "
                           "peer goes away"},
    [TD_OPT_SILENT] = {"--prefill-timeout", 0, TD_OPT_TYPE_REAL, "SECONDS", "10", 0, 3600,
                       SPLIT | DOCTOR, "a peer that is silent for so long has gone"},
    [TD_OPT_MAX_KV] = {"--max-kv", 0, TD_OPT_TYPE_COUNT, "SIZE", NULL, 1, UINT64_MAX, PREFILL,
                       "bytes of KV cache of all slots together, like 4G; default: half of what "
                       "memory is free"},
    [TD_OPT_SLOTS] = {"--slots", 0, TD_OPT_TYPE_COUNT, "N", "1", 1, 64, PREFILL,
                      "requests at a time"},
    [TD_OPT_LEASE] = {"--lease", 0, TD_OPT_TYPE_REAL, "SECONDS", "60", 0, 86400, PREFILL,
                      "how long a request is kept for a peer whose connection broke"},
    [TD_OPT_SEND_AT_END] = {"--send-at-end", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, PREFILL,
                            "send nothing before all is computed: only to see what streaming "
                            "gains"},
    [TD_OPT_PACE_PREFILL] = {"--pace-prefill", 0, TD_OPT_TYPE_RATE, "TOK_S", NULL, 0, 0,
                             SPLIT | PREFILL,
                             "read prompts no faster than this, or than a table "
                             "DEPTH:TOK_S,DEPTH:TOK_S,... says; for experiments"},
    [TD_OPT_PACE_DECODE] = {"--pace-decode", 0, TD_OPT_TYPE_RATE, "TOK_S", NULL, 0, 0,
                            SPLIT | PREFILL, "the same for single tokens"},
    [TD_OPT_DOCTOR_FORMAT] = {"--output", 'o', TD_OPT_TYPE_CHOICE, "text|json", "text", 0, 0,
                              DOCTOR, "lines to read, or one JSON object"},

    [TD_OPT_SPECIAL] = {"--special", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, RUN | TOKENIZE,
                        "read names of special tokens in the text as these tokens (run: with "
                        "--raw)"},
    [TD_OPT_FILE] = {"--file", 'f', TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, TOKENIZE | DETOKENIZE,
                     "read from FILE; - is the standard input"},

    [TD_OPT_TENSORS] = {"--tensors", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, INSPECT,
                        "list every tensor"},
    [TD_OPT_PROGRAM] = {"--program", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, INSPECT,
                        "list the operations of a forward pass"},
    [TD_OPT_JSON] = {"--json", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0,
                     EVAL | INSPECT | TOKENIZE | PROBE, "print JSON"},

    [TD_OPT_LAYERS] = {"--layers", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 512, SYNTH, "layers"},
    [TD_OPT_HIDDEN] = {"--hidden", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 1 << 20, SYNTH,
                       "width of the hidden state"},
    [TD_OPT_HEADS] = {"--heads", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 4096, SYNTH, "query heads"},
    [TD_OPT_KV_HEADS] = {"--kv-heads", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 4096, SYNTH,
                         "key and value heads"},
    [TD_OPT_HEAD_DIM] = {"--head-dim", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 512, SYNTH,
                         "width of a head"},
    [TD_OPT_EXPERTS] = {"--experts", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 1024, SYNTH,
                        "experts of a layer"},
    [TD_OPT_SYNTH_TOP_K] = {"--top-k", 0, TD_OPT_TYPE_COUNT, "K", NULL, 1, 64, SYNTH,
                            "experts used for a token"},
    [TD_OPT_FF] = {"--ff", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 1 << 20, SYNTH,
                   "width of an expert"},
    [TD_OPT_VOCAB] = {"--vocab", 0, TD_OPT_TYPE_COUNT, "N", NULL, 1, 1 << 24, SYNTH,
                      "tokens of the vocabulary"},
    [TD_OPT_SYNTH_CTX] = {"--ctx", 0, TD_OPT_TYPE_COUNT, "TOKENS", NULL, 1, UINT32_MAX / 2, SYNTH,
                          "context length the file states"},
    [TD_OPT_WINDOW] = {"--window", 0, TD_OPT_TYPE_COUNT, "TOKENS", NULL, 1, UINT32_MAX / 2, SYNTH,
                       "sliding window of every other layer"},
    [TD_OPT_EXPERTS_TYPE] = {"--experts-type", 0, TD_OPT_TYPE_TEXT, "TYPE", NULL, 0, 0, SYNTH,
                             "type of the experts' weights: MXFP4, Q8_0, BF16, F16, F32"},
    [TD_OPT_ATTN_TYPE] = {"--attn-type", 0, TD_OPT_TYPE_TEXT, "TYPE", NULL, 0, 0, SYNTH,
                          "type of the attention's weights"},
    [TD_OPT_EMBD_TYPE] = {"--embd-type", 0, TD_OPT_TYPE_TEXT, "TYPE", NULL, 0, 0, SYNTH,
                          "type of the embedding and output weights"},
    [TD_OPT_FORCE] = {"--force", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, SYNTH,
                      "overwrite OUT.gguf"},

    [TD_OPT_QUICK] = {"--quick", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, PROBE,
                      "less than two seconds instead of about ten"},
    [TD_OPT_OUT] = {"--output", 'o', TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, PROBE,
                    "also write the measurements to FILE, as JSON"},

    [TD_OPT_PLAN_MODEL] = {"--model", 'm', TD_OPT_TYPE_TEXT, "MODEL", NULL, 0, 0, PLAN,
                           "a name of the table, a GGUF file, or synth:NAME"},
    [TD_OPT_QUANT] = {"--quant", 0, TD_OPT_TYPE_TEXT, "Q", NULL, 0, 0, PLAN,
                      "how the weights are stored: MXFP4, Q4_0, Q4_K_M, Q8_0, F16 ...; default "
                      "MXFP4 for gpt-oss, Q4_K_M for others"},
    [TD_OPT_MACHINES] = {"--machines", 0, TD_OPT_TYPE_TEXT, "LIST", "dgx-spark,m4-max,strix-halo",
                         0, 0, PLAN,
                         "machines of the table by parts of their names, or files of tandem probe "
                         "-o and tandem bench -o json, with commas; or all"},
    [TD_OPT_LINK] = {"--link", 0, TD_OPT_TYPE_TEXT, "LINK", NULL, 0, 0, PLAN,
                     "between machines: 10GbE, 2.5GbE, TB4, TB5, USB4, wifi, or Gb/s"},
    [TD_OPT_PLAN_PROMPT] = {"--prompt", 'p', TD_OPT_TYPE_COUNT, "TOKENS", "8192", 1, 10000000, PLAN,
                            "length of the prompt"},
    [TD_OPT_PLAN_GEN] = {"--gen", 'n', TD_OPT_TYPE_COUNT, "TOKENS", "512", 1, 10000000, PLAN,
                         "length of the answer"},
    [TD_OPT_PLAN_BATCH] = {"--batch", 0, TD_OPT_TYPE_COUNT, "N", "1", 1, 1024, PLAN,
                           "requests that are answered at the same time"},
    [TD_OPT_PLAN_DEPTH] = {"--depth", 'd', TD_OPT_TYPE_COUNT, "TOKENS", "0", 0, 10000000, PLAN,
                           "tokens already in the KV cache before the prompt"},
    [TD_OPT_BUDGET] = {"--budget", 0, TD_OPT_TYPE_REAL, "USD", NULL, 0, 1000000000, PLAN,
                       "only machines that cost at most this"},
    [TD_OPT_TTFT] = {"--ttft", 0, TD_OPT_TYPE_REAL, "SECONDS", NULL, 0, 1000000, PLAN,
                     "only machines whose first token comes within this time"},
    [TD_OPT_TPS] = {"--tps", 0, TD_OPT_TYPE_REAL, "TOKENS", NULL, 0, 1000000, PLAN,
                    "only machines that write at least so many tokens a second"},
    [TD_OPT_POWER] = {"--power", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, PLAN,
                      "also the energy of a request, at the power that the maker states"},
    [TD_OPT_EXPLAIN] = {"--explain", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, PLAN,
                        "where each second goes"},
    [TD_OPT_GOLDEN] = {"--golden", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, PLAN,
                       "the balanced machine for this model and workload"},
    [TD_OPT_PRICE_FLOPS] = {"--price-flops", 0, TD_OPT_TYPE_REAL, "USD", "8", 0, 1000000, PLAN,
                            "with --golden: price of a TFLOP/s"},
    [TD_OPT_PRICE_BW] = {"--price-bw", 0, TD_OPT_TYPE_REAL, "USD", "3", 0, 1000000, PLAN,
                         "with --golden: price of a GB/s"},
    [TD_OPT_TABLE] = {"--table", 0, TD_OPT_TYPE_CHOICE, "published", NULL, 0, 0, PLAN,
                      "published tables: measured, predicted, error"},
    [TD_OPT_MEASURED] = {"--measured", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, PLAN,
                         "calibrate with these measurements, too: the columns of "
                         "data/measurements.csv, or what tandem bench -o json wrote (.json)"},
    [TD_OPT_VALIDATE] = {"--validate", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, PLAN,
                         "how good the predictions of these measurements are (.csv, .json)"},
    [TD_OPT_CALIBRATE] = {"--calibrate", 0, TD_OPT_TYPE_TEXT, "OUT.csv", NULL, 0, 0, PLAN,
                          "fit the built-in measurements and write data/calibration.csv anew"},
    [TD_OPT_PLAN_FORM] = {"--output", 'o', TD_OPT_TYPE_CHOICE, "text|md|json|html", "text", 0, 0,
                          PLAN, "tables to read, for programs, or a page with charts and sliders"},

    [TD_OPT_HOST] = {"--host", 0, TD_OPT_TYPE_TEXT, "ADDRESS", "127.0.0.1", 0, 0, SERVE,
                     "address to listen at; 0.0.0.0 or :: are all of this machine's"},
    [TD_OPT_PORT] = {"--port", 0, TD_OPT_TYPE_COUNT, "PORT", "8080", 0, 65535, SERVE,
                     "port to listen at; 0: any that is free"},
    [TD_OPT_CTX_SERVE] = {"--ctx", 'c', TD_OPT_TYPE_COUNT, "TOKENS", NULL, 2, 1 << 24, SERVE,
                          "tokens of a conversation at most; default: what the model was trained "
                          "for, as far as --kv-mem allows"},
    [TD_OPT_SLOTS_SERVE] = {"--slots", 0, TD_OPT_TYPE_COUNT, "N", "4", 1, 256, SERVE,
                            "answers that are written at once"},
    [TD_OPT_QUEUE] = {"--queue", 0, TD_OPT_TYPE_COUNT, "N", "64", 1, 65536, SERVE,
                      "answers that may wait for a slot; more are told to come back later"},
    [TD_OPT_MAX_GAP] = {"--max-gap", 0, TD_OPT_TYPE_COUNT, "MS", "1000", 1, 600000, SERVE,
                        "pause of a running stream that reading another's prompt may cause, in "
                        "milliseconds, in 19 of 20 cases"},
    [TD_OPT_KV_MEM] = {"--kv-mem", 0, TD_OPT_TYPE_COUNT, "SIZE", NULL, 1, UINT64_MAX, SERVE,
                       "bytes of KV cache of all conversations together, like 4G; default: half of "
                       "what memory is free"},
    [TD_OPT_KV_DISK] = {"--kv-disk", 0, TD_OPT_TYPE_TEXT, "DIR", NULL, 0, 0, SERVE,
                        "keep KV of conversations there, also over a restart"},
    [TD_OPT_KV_DISK_SIZE] = {"--kv-disk-size", 0, TD_OPT_TYPE_COUNT, "SIZE", "8G", 1, UINT64_MAX,
                             SERVE, "bytes on disk at most; the oldest go first"},
    [TD_OPT_MAX_ANSWER] = {"--max-answer", 0, TD_OPT_TYPE_COUNT, "TOKENS", "0", 0, UINT32_MAX / 2,
                           SERVE,
                           "length of an answer when a request does not say; 0: as the context "
                           "holds"},
    [TD_OPT_NAME] = {"--name", 0, TD_OPT_TYPE_TEXT, "NAME", NULL, 0, 0, SERVE,
                     "name of the model in the API; default: the file's"},
    [TD_OPT_API_KEY] = {"--api-key", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, SERVE,
                        "clients must send what this file holds, as Authorization: Bearer KEY"},
    [TD_OPT_ALLOW_PUBLIC] = {"--allow-public", 0, TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, SERVE,
                             "let others than this machine ask without an API key"},
    [TD_OPT_ALLOW_HOST] = {"--allow-host", 0, TD_OPT_TYPE_TEXT, "NAME,..", NULL, 0, 0, SERVE,
                           "further names that clients may know this server by"},
    [TD_OPT_CORS] = {"--cors", 0, TD_OPT_TYPE_TEXT, "ORIGIN,..", NULL, 0, 0, SERVE,
                     "pages of these origins (https://example.org) may ask; *: of all"},
    [TD_OPT_TLS_CERT] = {"--tls-cert", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, SERVE,
                         "https, with this certificate chain (PEM)"},
    [TD_OPT_TLS_KEY] = {"--tls-key", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, SERVE,
                        "and its private key (PEM)"},
    [TD_OPT_MAX_BODY] = {"--max-body", 0, TD_OPT_TYPE_COUNT, "SIZE", "32M", 1024, 1u << 30, SERVE,
                         "bytes of a request at most"},
    [TD_OPT_MAX_CONNECTIONS] = {"--max-connections", 0, TD_OPT_TYPE_COUNT, "N", "4096", 1, 100000,
                                SERVE, "connections at once; the longest idle one makes room"},
    [TD_OPT_MAX_PER_ADDRESS] = {"--max-per-address", 0, TD_OPT_TYPE_COUNT, "N", "0", 0, 100000,
                                SERVE, "connections of one address; 0: no limit of its own"},
    [TD_OPT_MAX_RATE] = {"--max-rate", 0, TD_OPT_TYPE_COUNT, "N", "0", 0, 1000000, SERVE,
                         "requests a second of one address; 0: no limit"},
    [TD_OPT_REQUEST_TIMEOUT] = {"--request-timeout", 0, TD_OPT_TYPE_COUNT, "SECONDS", "30", 1, 3600,
                                SERVE,
                                "a request that has not arrived as a whole by then is given up"},
    [TD_OPT_KEEP_ALIVE] = {"--keep-alive", 0, TD_OPT_TYPE_COUNT, "SECONDS", "10", 1, 3600, SERVE,
                           "a stream never stays silent for longer"},
    [TD_OPT_DRAIN_TIMEOUT] = {"--drain-timeout", 0, TD_OPT_TYPE_COUNT, "SECONDS", "60", 0, 86400,
                              SERVE, "how long running answers may go on after SIGTERM"},
    [TD_OPT_LOG_FORMAT] = {"--log-format", 0, TD_OPT_TYPE_CHOICE, "text|json|none", "text", 0, 0,
                           SERVE,
                           "a line for each request on the standard error; never what was said"},
    [TD_OPT_CONFIG] = {"--config", 0, TD_OPT_TYPE_TEXT, "FILE", NULL, 0, 0, SERVE,
                       "read options from FILE, a line \"name = value\" each; what the command "
                       "line says counts more"},

    [TD_OPT_HELP] = {"--help", 'h', TD_OPT_TYPE_FLAG, NULL, NULL, 0, 0, ALL, "this help"},
};

bool td_opt_belongs(enum td_opt opt, const struct td_command *command)
{
    return (td_options[opt].commands >> (command - td_commands)) & 1u;
}
