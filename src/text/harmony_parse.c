// SPDX-License-Identifier: MIT
// Generated tokens -> channels, tool calls and text, one token at a time. Models do not always
// write well-formed headers; whatever is not understood comes out as text, so that nothing a model
// said is lost.
// Source: openai/harmony, docs/format.md "Message format", "Receiving tool calls", "Preambles".
#include "text/harmony_impl.h"
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

// A header is a role, a recipient, a channel and a type: far fewer bytes. A longer one is text.
#define MAX_HEADER 1024u

// The parts of a header, in the order in which the special tokens begin them.
enum section { SECTION_ROLE, SECTION_CHANNEL, SECTION_TYPE, N_SECTIONS };

struct td_harmony_parser {
    const struct td_tokenizer *t;
    struct td_harmony_ids ids;
    bool in_content;
    enum section section;              // of the header that is being read
    struct td_text header[N_SECTIONS]; // bytes as generated
    enum td_channel channel;           // of the content
    bool is_call;                      // the content is arguments of a tool call
    struct td_utf8_stream utf8;
    struct td_text out; // room for what td_utf8_feed gives
};

// Where events go; one per call.
struct sink {
    struct td_harmony_parser *p;
    td_chat_event_fn *fn;
    void *ctx;
};

struct word {
    const char *at;
    size_t n;
};

int td_harmony_parser_open(struct td_harmony_parser **out, const struct td_tokenizer *t,
                           struct td_error *err)
{
    *out = NULL;
    struct td_harmony_parser *p = calloc(1, sizeof(*p));
    if (!p) return td_fail(err, TD_ENOMEM, "no memory for the chat parser");
    p->t = t;
    const int code = td_harmony_ids_find(&p->ids, t, err);
    if (code) {
        free(p);
        return code;
    }
    *out = p;
    return TD_OK;
}

void td_harmony_parser_close(struct td_harmony_parser *p)
{
    if (!p) return;
    for (int i = 0; i < N_SECTIONS; i++) td_text_free(&p->header[i]);
    td_text_free(&p->out);
    free(p);
}

static void emit(const struct sink *s, enum td_chat_event_kind kind, const char *text, size_t n)
{
    const struct td_chat_event event = {
        .kind = kind, .channel = s->p->channel, .text = text, .text_bytes = n};
    s->fn(s->ctx, &event);
}

static enum td_chat_event_kind text_kind(const struct td_harmony_parser *p)
{
    return p->is_call ? TD_CHAT_TOOL_ARGS : TD_CHAT_TEXT;
}

// Text of the message: what is whole UTF-8 now goes out, the rest is held.
static void give_text(const struct sink *s, const char *text, size_t n)
{
    struct td_text *out = &s->p->out;
    out->n = 0;
    td_text_pad(out, 3 * n + 12);
    if (out->no_memory || n == 0) return;
    const size_t n_out = td_utf8_feed(&s->p->utf8, text, n, out->at);
    if (n_out > 0) emit(s, text_kind(s->p), out->at, n_out);
}

static void give_held(const struct sink *s)
{
    char text[16];
    const size_t n = td_utf8_finish(&s->p->utf8, text);
    if (n > 0) emit(s, text_kind(s->p), text, n);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// The next word of text from *at on; n is 0 at the end.
static struct word next_word(const struct td_text *text, size_t *at)
{
    while (*at < text->n && is_space(text->at[*at])) (*at)++;
    const size_t from = *at;
    while (*at < text->n && !is_space(text->at[*at])) (*at)++;
    return (struct word){.at = text->n ? text->at + from : "", .n = *at - from};
}

static bool starts_with(struct word w, const char *start)
{
    const size_t n = strlen(start);
    return w.n >= n && memcmp(w.at, start, n) == 0;
}

static bool equals(struct word w, const char *text)
{
    return w.n == strlen(text) && memcmp(w.at, text, w.n) == 0;
}

static bool is_role(struct word w)
{
    return equals(w, "assistant") || equals(w, "user") || equals(w, "system") ||
           equals(w, "developer") || equals(w, "tool");
}

static bool is_recipient(struct word w)
{
    return starts_with(w, "to=") || starts_with(w, "functions.");
}

static bool channel_of(struct word w, enum td_channel *out)
{
    static const char *const names[] = {"analysis", "commentary", "final"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!equals(w, names[i])) continue;
        *out = (enum td_channel)i;
        return true;
    }
    return false;
}

static void trim(struct word *w, const char *start)
{
    if (!starts_with(*w, start)) return;
    w->at += strlen(start);
    w->n -= strlen(start);
}

// Who the message goes to. "to=" may stand in the role, the channel or behind the type, with or
// without a space; a bare "functions.f" is taken too, unless it is the author ("functions.f
// to=assistant" is a tool's answer).
static struct word recipient_of(const struct td_harmony_parser *p)
{
    struct word bare = {0};
    for (int i = 0; i < N_SECTIONS; i++) {
        size_t at = 0;
        for (struct word w; (w = next_word(&p->header[i], &at)).n > 0;) {
            if (starts_with(w, "to=")) {
                trim(&w, "to=");
                return w.n > 0 ? w : next_word(&p->header[i], &at);
            }
            if (bare.n == 0 && starts_with(w, "functions.")) bare = w;
        }
    }
    return bare;
}

static bool is_tool(struct word w)
{
    return w.n > 0 && !is_role(w) && !equals(w, "all");
}

// The message starts: what the header says of its content.
static void begin_content(const struct sink *s)
{
    struct td_harmony_parser *p = s->p;
    size_t at = 0;
    p->channel = TD_CHANNEL_FINAL; // without a channel, or with one nobody knows: show it
    struct word recipient = recipient_of(p);
    p->is_call = is_tool(recipient);
    if (p->is_call) p->channel = TD_CHANNEL_COMMENTARY;
    for (struct word w; (w = next_word(&p->header[SECTION_CHANNEL], &at)).n > 0;)
        if (channel_of(w, &p->channel)) break;
    p->in_content = true;
    p->utf8 = (struct td_utf8_stream){0};
    if (!p->is_call) return;
    trim(&recipient, "functions.");
    // The name as text: made whole characters like everything else.
    p->out.n = 0;
    td_text_pad(&p->out, 3 * recipient.n + 12);
    if (p->out.no_memory) return;
    size_t n = td_utf8_feed(&p->utf8, recipient.at, recipient.n, p->out.at);
    n += td_utf8_finish(&p->utf8, p->out.at + n);
    emit(s, TD_CHAT_TOOL_BEGIN, p->out.at, n);
}

static void clear_header(struct td_harmony_parser *p)
{
    for (int i = 0; i < N_SECTIONS; i++) p->header[i].n = 0;
    p->section = SECTION_ROLE;
}

static void end_content(const struct sink *s)
{
    struct td_harmony_parser *p = s->p;
    give_held(s);
    emit(s, p->is_call ? TD_CHAT_TOOL_END : TD_CHAT_MESSAGE_END, "", 0);
    p->in_content = false;
    p->is_call = false;
    clear_header(p);
}

// Where the words of a section end that belong to a header; what follows is text.
static size_t header_words(const struct td_harmony_parser *p, enum section section)
{
    const struct td_text *text = &p->header[section];
    enum td_channel channel;
    bool has_channel = false;
    size_t at = 0, end = 0;
    for (struct word w; (w = next_word(text, &at)).n > 0; end = at) {
        bool is_ours = is_recipient(w);
        if (section == SECTION_ROLE) is_ours = is_ours || is_role(w);
        if (section != SECTION_ROLE) is_ours = is_ours || equals(w, "json");
        if (section == SECTION_CHANNEL && !has_channel && channel_of(w, &channel))
            is_ours = has_channel = true;
        // "json{": the text is joined on.
        if (section == SECTION_TYPE && !is_ours && end == 0 && starts_with(w, "json"))
            return (size_t)(w.at - text->at) + 4;
        // "to=" alone takes the next word with it.
        if (equals(w, "to=")) (void)next_word(text, &at);
        if (!is_ours) break;
    }
    return end;
}

// Gives the text of a section that is not a header's; white space alone is not text.
static void give_rest(const struct sink *s, enum section section)
{
    const struct td_text *text = &s->p->header[section];
    size_t from = header_words(s->p, section);
    size_t i = from;
    while (i < text->n && is_space(text->at[i])) i++;
    if (i == text->n) return;
    if (from > 0 && from < text->n && is_space(text->at[from])) from++; // the header's own space
    give_text(s, text->at + from, text->n - from);
}

// A header that never came to <|message|>: its text is what the message says.
static void header_is_text(const struct sink *s)
{
    begin_content(s);
    for (int i = 0; i < N_SECTIONS; i++) give_rest(s, (enum section)i);
    clear_header(s->p);
}

static bool has_text(const struct td_harmony_parser *p)
{
    for (int i = 0; i < N_SECTIONS; i++) {
        size_t at = header_words(p, (enum section)i);
        if (next_word(&p->header[i], &at).n > 0) return true;
    }
    return false;
}

// A header ends without a message: its text, if any, is one. A call may have no text.
static void drop_header(const struct sink *s, bool is_call)
{
    if (has_text(s->p) || (is_call && is_tool(recipient_of(s->p)))) {
        header_is_text(s);
        end_content(s);
    }
    clear_header(s->p);
}

// Words before <|message|> that are no header's: text of their own, before the message.
static void give_stray_role(const struct sink *s)
{
    struct td_harmony_parser *p = s->p;
    size_t at = header_words(p, SECTION_ROLE);
    if (next_word(&p->header[SECTION_ROLE], &at).n == 0) return;
    p->channel = TD_CHANNEL_FINAL;
    p->is_call = false;
    p->utf8 = (struct td_utf8_stream){0};
    give_rest(s, SECTION_ROLE);
    give_held(s);
}

// Text in a header. Words that no header has mean that this is a message without one.
static void feed_header(const struct sink *s, struct td_str text)
{
    struct td_harmony_parser *p = s->p;
    struct td_text *section = &p->header[p->section];
    td_text_put(section, text.at, text.size_bytes);
    size_t n = 0;
    for (int i = 0; i < N_SECTIONS; i++) n += p->header[i].n;
    bool is_text = n > MAX_HEADER;
    if (p->section == SECTION_ROLE && section->n > 0) {
        size_t at = header_words(p, SECTION_ROLE);
        const struct word w = next_word(section, &at);
        is_text = is_text || (w.n > 0 && at < section->n); // the word is whole, and is unknown
    }
    if (is_text) header_is_text(s);
}

static void begin_header(const struct sink *s, enum section section)
{
    if (s->p->in_content)
        end_content(s); // the model left out <|end|>
    else if (section == SECTION_ROLE)
        drop_header(s, false);
    struct td_text *text = &s->p->header[section];
    if (text->n > 0 && text->at[text->n - 1] != ' ') td_text_puts(text, " "); // begun twice
    s->p->section = section;
}

// A token that is text: normal ones, and user-defined ones ("<think>").
static bool is_text_token(const struct td_tokenizer *t, int32_t token)
{
    return token >= 0 && (uint32_t)token < t->n_vocab && t->types[token] != TD_TOKEN_CONTROL;
}

static int sink_result(struct td_harmony_parser *p, struct td_error *err)
{
    bool no_memory = p->out.no_memory;
    for (int i = 0; i < N_SECTIONS; i++) no_memory = no_memory || p->header[i].no_memory;
    return no_memory ? td_fail(err, TD_ENOMEM, "no memory for the text of the answer") : TD_OK;
}

int td_harmony_feed(struct td_harmony_parser *p, int32_t token, td_chat_event_fn *fn, void *ctx,
                    struct td_error *err)
{
    const struct sink s = {.p = p, .fn = fn, .ctx = ctx};
    const struct td_harmony_ids *ids = &p->ids;
    const bool is_done =
        token == ids->ret || token == ids->call || td_token_ends_generation(p->t, token);
    if (token == ids->end || is_done) {
        if (p->in_content)
            end_content(&s);
        else
            drop_header(&s, token == ids->call);
        if (is_done) emit(&s, TD_CHAT_DONE, "", 0);
    } else if (token == ids->start) {
        begin_header(&s, SECTION_ROLE);
    } else if (token == ids->channel) {
        begin_header(&s, SECTION_CHANNEL);
    } else if (token == ids->constrain) {
        if (!p->in_content) begin_header(&s, SECTION_TYPE);
    } else if (token == ids->message) {
        if (p->in_content) {
            give_held(&s); // a stray one: characters do not reach over it
        } else {
            give_stray_role(&s);
            begin_content(&s);
        }
    } else if (is_text_token(p->t, token)) {
        const struct td_str text = td_token_bytes(p->t, token);
        if (p->in_content)
            give_text(&s, text.at, text.size_bytes);
        else
            feed_header(&s, text);
    }
    return sink_result(p, err);
}

int td_harmony_finish(struct td_harmony_parser *p, td_chat_event_fn *fn, void *ctx,
                      struct td_error *err)
{
    const struct sink s = {.p = p, .fn = fn, .ctx = ctx};
    // Cut off: the text is given, but no message or call is said to be complete.
    if (!p->in_content && has_text(p)) header_is_text(&s);
    if (p->in_content) give_held(&s);
    const int code = sink_result(p, err);
    p->in_content = false;
    p->is_call = false;
    clear_header(p);
    return code;
}
