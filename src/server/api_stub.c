// SPDX-License-Identifier: MIT
// Dialects that are to come.
#include "server/api_impl.h"

static void refuse(struct td_ask *a)
{
    td_fault_set(&a->rd, 501, NULL, NULL, NULL, "This route is not there yet.");
}
void td_read_responses(struct td_ask *a)
{
    refuse(a);
}
void td_read_ollama_chat(struct td_ask *a)
{
    refuse(a);
}
void td_read_ollama_generate(struct td_ask *a, const struct td_api_config *cfg)
{
    (void)cfg;
    refuse(a);
}
const struct td_dialect td_dialect_responses, td_dialect_ollama_chat, td_dialect_ollama_generate;
