// SPDX-License-Identifier: MIT
// Any directory that parses either becomes a model whose program can be printed and priced, or is
// refused with a sentence. Also any text is either a synthetic shape or refused.
#include "model/model.h"
#include "model/synth.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static void parse_shape(const uint8_t *data, size_t size)
{
    char text[600];
    const size_t n = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
    memcpy(text, data, n);
    text[n] = '\0';
    struct td_synth_shape shape;
    struct td_error err = {0};
    if (td_synth_parse(&shape, text, &err) != TD_OK) check(err.msg[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse_shape(data, size);
    struct td_error err = {0};
    struct td_gguf *g = NULL;
    if (td_gguf_parse(&g, data, size, "fuzz", true, &err) != TD_OK) return 0;
    struct td_model *m = NULL;
    if (td_model_of_gguf(&m, g, NULL, &err) != TD_OK) {
        check(err.msg[0] != '\0' && !strchr(err.msg, '\n') && !m);
        return 0;
    }
    char line[512];
    for (uint32_t i = 0; i < m->program.n_ops; i++)
        check(td_op_text(m, i, line, sizeof(line)) == strlen(line));
    struct td_cost cost;
    td_cost_program(&cost, m, 7, 3, 2, 2);
    check(cost.flop > 0 && cost.weight_bytes > 0);
    td_model_close(m);
    return 0;
}
