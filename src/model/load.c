// SPDX-License-Identifier: MIT
// Opens a model: a GGUF file or synthetic weights -> spec, bound weights and program, by the
// architecture the file names. Every check of a number, shape or type is on this path.
#include "model/arch_impl.h"
#include "model/digest_impl.h"
#include "model/model.h"
#include "model/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct td_arch *const architectures[] = {
    &td_arch_gptoss,
};
enum { N_ARCHITECTURES = sizeof(architectures) / sizeof(architectures[0]) };

// Copies text that may hold anything into a C string that can be printed.
static void copy_text(char *out, size_t size_bytes, struct td_str s)
{
    const size_t n = s.size_bytes < size_bytes - 1 ? s.size_bytes : size_bytes - 1;
    for (size_t i = 0; i < n; i++) {
        out[i] = s.at[i];
        if ((unsigned char)out[i] < 0x20 || out[i] == 0x7f) out[i] = '?';
    }
    out[n] = '\0';
}

static void unknown_architecture(struct td_binder *b, const char *arch)
{
    if (strcmp(arch, "gptoss") == 0) {
        td_bind_fail(b, TD_EUNSUP,
                     "architecture 'gptoss' is Ollama's own layout of gpt-oss; get a GGUF of "
                     "architecture 'gpt-oss', such as ggml-org's");
        return;
    }
    char list[120] = "";
    size_t n = 0;
    for (uint32_t i = 0; i < N_ARCHITECTURES && n < sizeof(list); i++) {
        const int k =
            snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", architectures[i]->name);
        n += k > 0 ? (size_t)k : 0;
    }
    td_bind_fail(b, TD_EUNSUP, "architecture '%s' is not supported; tandem runs %s", arch, list);
}

// NULL, and the binder has failed, when there is none.
static const struct td_arch *choose_arch(struct td_binder *b, struct td_spec *spec)
{
    struct td_str s = {"", 0};
    const int code = td_gguf_str(b->gguf, "general.architecture", &s, NULL);
    if (code != TD_OK || s.size_bytes == 0) {
        td_bind_fail(b, TD_EFORMAT, "key 'general.architecture' is %s",
                     code == TD_EFORMAT ? "not a string" : "missing");
        return NULL;
    }
    copy_text(spec->arch, sizeof(spec->arch), s);
    if (td_gguf_n_tensors(b->gguf) == 0) {
        td_bind_fail(b, TD_EFORMAT, "the file has no weights (a vocabulary only)");
        return NULL;
    }
    for (uint32_t i = 0; i < N_ARCHITECTURES; i++) {
        if (strlen(architectures[i]->name) == s.size_bytes &&
            memcmp(architectures[i]->name, s.at, s.size_bytes) == 0)
            return architectures[i];
    }
    unknown_architecture(b, spec->arch);
    return NULL;
}

static int read_model(struct td_model *m, struct td_error *err)
{
    struct td_binder b;
    td_binder_init(&b, m->gguf, "", err);
    const struct td_arch *arch = choose_arch(&b, &m->spec);
    if (!arch) return b.code;
    b.arch = arch->name;
    struct td_str name = {arch->name, strlen(arch->name)};
    (void)td_gguf_str(m->gguf, "general.name", &name, NULL); // absent: the architecture's
    copy_text(m->spec.name, sizeof(m->spec.name), name);

    arch->read_spec(&b, &m->spec);
    if (b.code != TD_OK) return b.code;

    struct td_recorder r;
    td_rec_begin(&r, &m->spec);
    const td_slot logits = arch->record(&b, &r);
    m->weights = b.weights;
    m->n_weights = b.n_weights;
    const int code = td_rec_end(&r, logits, &m->program, err);
    if (b.code != TD_OK) return b.code;
    if (code != TD_OK) return code;
    for (uint32_t i = 0; i < m->n_weights; i++) m->weights_bytes += m->weights[i].size_bytes;
    return TD_OK;
}

int td_model_of_gguf(struct td_model **out, struct td_gguf *gguf, struct td_synth *synth,
                     struct td_error *err)
{
    *out = NULL;
    struct td_model *m = calloc(1, sizeof(*m));
    if (!m) {
        td_gguf_close(gguf);
        td_synth_close(synth);
        return td_fail(err, TD_ENOMEM, "no memory for a model's table");
    }
    m->gguf = gguf;
    m->synth = synth;
    const int code = read_model(m, err);
    if (code != TD_OK) {
        td_model_close(m);
        return code;
    }
    td_model_digest(m);
    *out = m;
    return TD_OK;
}

static int open_synth(struct td_model **out, const char *text, const struct td_model_options *opt,
                      struct td_error *err)
{
    struct td_synth_shape shape;
    int code = td_synth_parse(&shape, text, err);
    if (code != TD_OK) return code;
    struct td_synth *synth = NULL;
    struct td_gguf *gguf = NULL;
    char note[sizeof((*out)->note)] = "";
    code = td_synth_make(&synth, &gguf, &shape, opt, note, sizeof(note), err);
    if (code != TD_OK) return code;
    code = td_model_of_gguf(out, gguf, synth, err);
    if (code != TD_OK) return code;
    snprintf((*out)->note, sizeof((*out)->note), "%s", note);
    return TD_OK;
}

int td_model_open(struct td_model **out, const char *path, const struct td_model_options *opt,
                  struct td_error *err)
{
    *out = NULL;
    static const struct td_model_options plain = {0};
    if (!opt) opt = &plain;
    static const char prefix[] = "synth:";
    if (strncmp(path, prefix, sizeof(prefix) - 1) == 0)
        return open_synth(out, path + sizeof(prefix) - 1, opt, err);
    struct td_gguf *gguf = NULL;
    const int code = td_gguf_open(&gguf, path, err);
    if (code != TD_OK) return code;
    return td_model_of_gguf(out, gguf, NULL, err);
}

void td_model_close(struct td_model *m)
{
    if (!m) return;
    td_program_free(&m->program);
    free(m->weights);
    td_gguf_close(m->gguf);
    td_synth_close(m->synth);
    free(m);
}
