// SPDX-License-Identifier: MIT
// From the tokens of an answer to the events of its job: channels, tool calls, whole characters,
// stop texts, and which tokens a piece of text comes from. It does not choose tokens.
#ifndef TD_SERVER_ANSWER_H
#define TD_SERVER_ANSWER_H

#include "server/job_impl.h"
#include "text/tokenizer.h"

struct td_answer;
// Fails: TD_EUNSUP, the vocabulary lacks the chat format's tokens; TD_ENOMEM.
int td_answer_open(struct td_answer **out, struct td_job *job, const struct td_tokenizer *tokenizer,
                   struct td_error *err) TD_MUST_CHECK;
void td_answer_close(struct td_answer *a); // NULL is fine

// A token of the prompt that is the beginning of the answer (spec.n_begun).
int td_answer_begin(struct td_answer *a, int32_t token, struct td_error *err) TD_MUST_CHECK;
// The next token, with its logprobs when the job wants them (else NULL). *is_over_out: the answer
// ends here, *end_out says how. Fails: TD_ENOMEM.
int td_answer_feed(struct td_answer *a, int32_t token, const struct td_job_token *logprobs,
                   bool *is_over_out, enum td_job_end *end_out, struct td_error *err) TD_MUST_CHECK;
// If no more tokens come now, nothing is cut off: the last ones might have become a further call.
bool td_answer_is_whole(const struct td_answer *a);
// No more tokens come: gives what was held back. *stopped_out: a stop text was found in it.
int td_answer_finish(struct td_answer *a, bool *stopped_out, struct td_error *err) TD_MUST_CHECK;

uint32_t td_answer_n_reasoning(const struct td_answer *a); // tokens in the analysis channel

#endif
