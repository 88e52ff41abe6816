// SPDX-License-Identifier: MIT
// Answers many prompts with one model, as `tandem run --temp 0` would, but in one process: for
// tests/quality/quality.py, which writes the prompts and scores the answers.
//
//   answer_items MODEL [options] <ITEMS >ANSWERS
//     ITEMS    JSON lines: id, prompt, developer (or null), and with --move also cut
//     ANSWERS  JSON lines: id, text
//     --sessions N     prompts under way together, in shared batches (8)
//     --chunk N        tokens of a run at most (512)
//     --kv f16|f32     type of cached keys and values (f16)
//     --isa NAME       instruction set; exit status 77 when this CPU lacks it
//     --date DATE      of the system message (2026-11-22)
//     --move           all but the last `cut` tokens of a prompt are read by another session, whose
//                      KV is then copied span by span, as a network would carry it
//     --wipe           the same, but full layers arrive as zeros where no window reaches
//     --relay PEER     `tandem prefill` at HOST:PORT reads every prompt but its last token
//     --kv-wire TYPE   f16 or q8_0 (f16), with --relay
#include "base/clock.h"
#include "base/num.h"
#include "engine/engine.h"
#include "kernels/kernels.h"
#include "relay/identity.h"
#include "relay/remote.h"
#include "text/harmony.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_SESSIONS = 64, N_CTX = 4096, MAX_ANSWER = 300, MAX_TEXT_BYTES = 8192, SKIPPED = 77 };

// One prompt under way.
struct slot {
    struct td_session *session;
    struct td_harmony_parser *parser; // NULL: nothing under way
    json_t *item;
    struct td_ids ids;           // the prompt
    struct td_remote_try *fetch; // a peer reads it
    uint32_t n_written;
    bool is_done;
    char text[MAX_TEXT_BYTES]; // of the final channel
    size_t n_text;
};

struct job {
    const char *date;
    bool moves, wipes;
    struct td_model *model;
    struct td_tokenizer *tokenizer;
    struct td_engine *engine;
    struct td_sampler *sampler;
    struct td_engine_config cfg;
    uint32_t n_slots;
    struct slot slots[MAX_SESSIONS];
    uint32_t n_read, n_written; // tokens
    const char *peers;          // NULL: everything is read here
    enum td_type kv_wire;
    struct td_peer self;
    struct td_remote *remote;
    uint32_t n_remote; // tokens that came from a peer
    struct td_error err;
};

static void keep_text(void *ctx, const struct td_chat_event *e)
{
    struct slot *s = ctx;
    if (e->kind == TD_CHAT_DONE) s->is_done = true;
    if (e->kind != TD_CHAT_TEXT || e->channel != TD_CHANNEL_FINAL) return;
    const size_t n =
        e->text_bytes < MAX_TEXT_BYTES - s->n_text ? e->text_bytes : MAX_TEXT_BYTES - s->n_text;
    if (n) memcpy(s->text + s->n_text, e->text, n);
    s->n_text += n;
}

static int render(struct job *j, struct slot *s)
{
    const char *prompt = json_string_value(json_object_get(s->item, "prompt"));
    const char *developer = json_string_value(json_object_get(s->item, "developer"));
    if (!prompt) return td_fail(&j->err, TD_EFORMAT, "an item has no prompt");
    const struct td_message messages[2] = {
        {.role = TD_ROLE_SYSTEM,
         .content = developer ? developer : "",
         .content_bytes = developer ? strlen(developer) : 0},
        {.role = TD_ROLE_USER, .content = prompt, .content_bytes = strlen(prompt)}};
    const struct td_chat chat = {.current_date = j->date,
                                 .effort = TD_EFFORT_MEDIUM,
                                 .messages = developer ? messages : messages + 1,
                                 .n_messages = developer ? 2 : 1,
                                 .add_generation_prompt = true};
    s->ids.n = 0;
    return td_harmony_render(j->tokenizer, &chat, &s->ids, NULL, &j->err);
}

// Zeros for the span's positions [0, n) of keys and values.
static void wipe(uint8_t *bytes, size_t size_bytes, uint32_t n_span, uint32_t n)
{
    const size_t half_bytes = size_bytes / 2;
    memset(bytes, 0, half_bytes / n_span * n);
    memset(bytes + half_bytes, 0, half_bytes / n_span * n);
}

// Copies what a token at n sees, layer by layer.
static int copy_kv(struct job *j, struct td_session *to, struct td_session *from, uint32_t n,
                   uint32_t n_wiped)
{
    const struct td_backend *b = td_backend_cpu();
    for (uint32_t il = 0; il < j->model->spec.n_layers; il++) {
        const struct td_kv_layer *l = &j->model->spec.kv[il];
        const uint32_t n_seen = l->window && n > l->window - 1 ? l->window - 1 : n;
        struct td_kv_span span = {td_session_kv(from), il, n - n_seen, n_seen};
        const size_t size_bytes = (size_t)2 * n_seen * l->n_kv_heads * l->head_dim *
                                  (j->cfg.device.kv_f32 ? sizeof(float) : 2);
        uint8_t *bytes = malloc(size_bytes);
        struct td_kv_pin *pin = NULL;
        int code = bytes ? b->kv_pin(&pin, &span, &j->err)
                         : td_fail(&j->err, TD_ENOMEM, "no memory for a span");
        if (code == TD_OK) {
            code = b->kv_read(pin, bytes, size_bytes, &j->err);
            b->kv_unpin(pin);
        }
        if (code == TD_OK) {
            if (!l->window) wipe(bytes, size_bytes, n_seen, n_wiped);
            span.kv = td_session_kv(to);
            code = b->kv_write(&span, bytes, size_bytes, &j->err);
        }
        free(bytes);
        if (code != TD_OK) return code;
    }
    return b->kv_commit(td_session_kv(to), n, &j->err);
}

// Another session reads the prompt up to the question; its KV goes to a new one of the slot.
static int move(struct job *j, struct slot *s)
{
    const json_int_t cut = json_integer_value(json_object_get(s->item, "cut"));
    if (cut < 1 || (size_t)cut >= s->ids.n)
        return td_fail(&j->err, TD_EFORMAT, "an item has no place to cut");
    const uint32_t n = (uint32_t)(s->ids.n - (size_t)cut);
    uint32_t window = 0;
    for (uint32_t il = 0; il < j->model->spec.n_layers; il++)
        if (j->model->spec.kv[il].window > window) window = j->model->spec.kv[il].window;
    td_session_close(s->session);
    s->session = NULL;
    struct td_session *far = NULL;
    int code = td_session_open(&s->session, j->engine, N_CTX, &j->err);
    if (code == TD_OK) code = td_session_open(&far, j->engine, N_CTX, &j->err);
    if (code == TD_OK) code = td_session_sync(far, s->ids.at, n, NULL, 0, NULL, NULL, &j->err);
    if (code == TD_OK)
        code = copy_kv(j, s->session, far, n, j->wipes && n > window ? n - window : 0);
    if (code == TD_OK) code = td_session_adopt(s->session, s->ids.at, n, &j->err);
    td_session_close(far);
    return code;
}

static int begin(struct job *j, struct slot *s, json_t *item)
{
    s->item = item;
    s->n_written = 0;
    s->n_text = 0;
    s->is_done = false;
    int code = td_harmony_parser_open(&s->parser, j->tokenizer, &j->err);
    if (code == TD_OK) code = render(j, s);
    if (code == TD_OK && j->moves) code = move(j, s);
    if (code == TD_OK && j->remote) {
        const struct td_remote_ask ask = {.tokens = s->ids.at, .n = (uint32_t)s->ids.n};
        code = td_remote_begin(&s->fetch, j->remote, s->session, &ask, &j->err);
    } else if (code == TD_OK)
        code = td_session_want(s->session, s->ids.at, (uint32_t)s->ids.n, NULL, 0, &j->err);
    j->n_read += (uint32_t)s->ids.n;
    return code;
}

static int end(struct job *j, struct slot *s)
{
    const int code = td_harmony_finish(s->parser, keep_text, s, &j->err);
    json_t *out =
        json_pack("{sOss%}", "id", json_object_get(s->item, "id"), "text", s->text, s->n_text);
    if (code == TD_OK && out) {
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(out);
    json_decref(s->item);
    td_harmony_parser_close(s->parser);
    s->parser = NULL;
    return code != TD_OK || out ? code : td_fail(&j->err, TD_EFORMAT, "an answer is not text");
}

// The logits are there: one token more, or the end.
static int next(struct job *j, struct slot *s)
{
    const int32_t token = td_sampler_draw(j->sampler, td_session_logits(s->session));
    int code = td_harmony_feed(s->parser, token, keep_text, s, &j->err);
    if (code != TD_OK) return code;
    j->n_written++;
    if (s->is_done || ++s->n_written == MAX_ANSWER || td_session_len(s->session) == N_CTX)
        return end(j, s);
    return td_session_append(s->session, token, &j->err);
}

// What a peer reads is on its way: true as long as the session is not to be touched.
static bool is_fetching(struct job *j, struct slot *s)
{
    if (!s->fetch) return false;
    const enum td_remote_state state = td_remote_poll(s->fetch, 0, &j->err);
    if (state == TD_REMOTE_FAILED && j->err.code == TD_OK) j->err.code = TD_EIO;
    return state == TD_REMOTE_RUNNING;
}

// The logits of the prompt's last token are there.
static int end_fetch(struct job *j, struct slot *s)
{
    struct td_remote_stats stats;
    if (!s->fetch) return TD_OK;
    td_remote_end(s->fetch, &stats);
    s->fetch = NULL;
    j->n_remote += stats.n_remote;
    if (stats.n_local == 1 && stats.n_remote > 0) return TD_OK;
    return td_fail(&j->err, TD_EIO, "a prompt was not read by the peer: %s", stats.reason);
}

static int step(struct job *j)
{
    uint32_t n_rows = 0;
    if (j->remote) (void)td_remote_tend(j->remote);
    const int code = td_engine_step(j->engine, &n_rows, &j->err);
    const struct timespec nap = {.tv_nsec = 500000};
    if (n_rows == 0) nanosleep(&nap, NULL);
    return code;
}

static json_t *read_item(struct job *j)
{
    json_error_t why;
    json_t *item = json_loadf(stdin, JSON_DISABLE_EOF_CHECK, &why);
    if (!item && json_error_code(&why) != json_error_premature_end_of_input)
        (void)td_fail(&j->err, TD_EFORMAT, "the items are not JSON lines: %.120s", why.text);
    return item;
}

static int answer_all(struct job *j)
{
    bool is_more = true;
    for (;;) {
        bool is_busy = false;
        for (uint32_t i = 0; i < j->n_slots; i++) {
            struct slot *s = &j->slots[i];
            if (!s->parser && is_more) {
                json_t *item = read_item(j);
                if (!item && j->err.code != TD_OK) return j->err.code;
                is_more = item != NULL;
                if (item && begin(j, s, item) != TD_OK) return j->err.code;
            }
            is_busy = is_busy || s->parser;
        }
        if (!is_busy) return TD_OK;
        if (step(j) != TD_OK) return j->err.code;
        for (uint32_t i = 0; i < j->n_slots; i++) {
            struct slot *s = &j->slots[i];
            if (!s->parser || is_fetching(j, s)) continue;
            if (j->err.code != TD_OK) return j->err.code;
            if (td_session_state(s->session) == TD_SESSION_READY &&
                (end_fetch(j, s) != TD_OK || next(j, s) != TD_OK))
                return j->err.code;
        }
    }
}

static int open_remote(struct job *j)
{
    uint8_t tokenizer[32], weights[32];
    int code = td_identity_tokenizer(j->model, tokenizer, &j->err);
    if (code == TD_OK) code = td_identity_weights(j->model, 1, NULL, NULL, weights, &j->err);
    const enum td_type own = j->cfg.device.kv_f32 ? TD_F32 : TD_F16;
    if (code == TD_OK)
        code = td_peer_init(&j->self, TD_WIRE_DECODE, &j->model->spec, tokenizer, weights, own,
                            &j->err);
    const struct td_remote_config cfg = {
        .far = {.engine = j->engine,
                .backend = td_backend_cpu(),
                .peer = &j->self,
                .engine_kv_type = own,
                .kv_type = j->kv_wire == TD_Q8_0 ? TD_Q8_0 : own},
        .peers = j->peers,
        .policy = TD_REMOTE_REQUIRE,
    };
    return code == TD_OK ? td_remote_open(&j->remote, &cfg, &j->err) : code;
}

static int open_all(struct job *j, const char *path)
{
    const struct td_sampling greedy = {.temp = 0, .top_p = 1};
    int code = td_model_open(&j->model, path, NULL, &j->err);
    if (code == TD_OK) code = td_tokenizer_open(&j->tokenizer, j->model->gguf, &j->err);
    if (code == TD_OK)
        code = td_engine_open(&j->engine, j->model, td_backend_cpu(), &j->cfg, &j->err);
    if (code == TD_OK)
        code = td_sampler_open(&j->sampler, &greedy, j->model->spec.n_vocab, &j->err);
    for (uint32_t i = 0; code == TD_OK && i < j->n_slots; i++)
        code = td_session_open(&j->slots[i].session, j->engine, N_CTX, &j->err);
    return code == TD_OK && j->peers ? open_remote(j) : code;
}

static void close_all(struct job *j)
{
    for (uint32_t i = 0; i < j->n_slots; i++)
        if (j->slots[i].fetch) td_remote_end(j->slots[i].fetch, NULL);
    td_remote_close(j->remote);
    for (uint32_t i = 0; i < j->n_slots; i++) {
        struct slot *s = &j->slots[i];
        td_session_close(s->session);
        td_harmony_parser_close(s->parser);
        td_ids_free(&s->ids);
    }
    td_sampler_close(j->sampler);
    td_engine_close(j->engine);
    td_tokenizer_close(j->tokenizer);
    td_model_close(j->model);
}

static int usage(const char *word)
{
    fprintf(stderr, "answer_items: what is '%s'? See the head of answer_items.c\n", word);
    return 2;
}

// 0, or the exit status.
static int read_options(struct job *j, int argc, char **argv)
{
    for (int i = 2; i < argc; i++) {
        const char *name = argv[i];
        if (strcmp(name, "--move") == 0 || strcmp(name, "--wipe") == 0) {
            j->moves = true;
            j->wipes = j->wipes || name[2] == 'w';
            continue;
        }
        if (++i == argc) return usage(name);
        const uint32_t n = (uint32_t)strtoul(argv[i], NULL, 10);
        enum td_isa isa;
        if (strcmp(name, "--sessions") == 0 && n >= 1 && n <= MAX_SESSIONS) {
            j->n_slots = n;
        } else if (strcmp(name, "--chunk") == 0 && n >= 1) {
            j->cfg.device.max_rows = n;
        } else if (strcmp(name, "--kv") == 0) {
            j->cfg.device.kv_f32 = strcmp(argv[i], "f32") == 0;
        } else if (strcmp(name, "--relay") == 0) {
            j->peers = argv[i];
        } else if (strcmp(name, "--kv-wire") == 0) {
            j->kv_wire = strcmp(argv[i], "q8_0") == 0 ? TD_Q8_0 : TD_F16;
        } else if (strcmp(name, "--date") == 0) {
            j->date = argv[i];
        } else if (strcmp(name, "--isa") == 0 && td_isa_parse(argv[i], &isa)) {
            if (!td_isa_supported(isa)) return SKIPPED;
            j->cfg.device.isa = (int)isa;
        } else {
            return usage(name);
        }
    }
    // The other session's steps would carry the slots along.
    if (j->moves) j->n_slots = 1;
    j->cfg.device.max_logits_rows = td_min_u32(j->n_slots, j->cfg.device.max_rows);
    return 0;
}

int main(int argc, char **argv)
{
    // Beside other jobs on a small machine a second process is faster than a second thread.
    static struct job j = {.date = "2026-11-22",
                           .n_slots = 8,
                           .cfg = {.device = {.n_threads = 1, .max_rows = 512, .isa = -1}}};
    if (argc < 2) return usage("nothing");
    const int status = read_options(&j, argc, argv);
    if (status != 0) return status;
    const uint64_t t0_ns = td_clock_ns();
    int code = open_all(&j, argv[1]);
    if (code == TD_OK) code = answer_all(&j);
    close_all(&j);
    if (code != TD_OK) fprintf(stderr, "answer_items: %s\n", j.err.msg);
    fprintf(stderr, "read %u tokens, %u of them at a peer, wrote %u in %.2f s\n", j.n_read,
            j.n_remote, j.n_written, (double)(td_clock_ns() - t0_ns) * 1e-9);
    return code == TD_OK && fflush(stdout) == 0 ? 0 : 1;
}
