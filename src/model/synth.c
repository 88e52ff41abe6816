// SPDX-License-Identifier: MIT
#include "model/synth.h"

int td_synth_parse(struct td_synth_shape *out, const char *text, struct td_error *err)
{
    (void)out;
    return td_fail(err, TD_EUNSUP, "synthetic model '%s': not built in yet", text);
}
int td_synth_make(struct td_synth **out, struct td_gguf **gguf_out,
                  const struct td_synth_shape *shape, const struct td_model_options *opt,
                  char *note, size_t note_bytes, struct td_error *err)
{
    (void)shape, (void)opt, (void)note, (void)note_bytes;
    *out = NULL;
    *gguf_out = NULL;
    return td_fail(err, TD_EUNSUP, "synthetic models: not built in yet");
}
void td_synth_close(struct td_synth *s)
{
    (void)s;
}
