// SPDX-License-Identifier: MIT
// Who may ask: the API key, the Host and Origin of a request, its content type, its rate. Pure
// functions over a request's headers, so that every rule can be tested by itself; http_request.c
// turns a no into an answer. No sockets.
#ifndef TD_SERVER_HTTP_GUARD_H
#define TD_SERVER_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// True when key is NULL, or one of the headers (NULL: absent) carries it: "Authorization: Bearer
// KEY", "x-api-key: KEY". Takes as long whatever is wrong.
bool td_guard_key(const char *key, const char *authorization, const char *x_api_key);

// The names this server goes by.
struct td_guard_names {
    const char *bound;         // the address it listens at, without a port: "127.0.0.1", "::"
    const char *const *others; // (n_others) further names
    uint32_t n_others;
};
// Whether Host is one of ours, whatever its port: a loopback name, the bound address, a further
// name. A page of elsewhere that has its own name resolve to this machine (DNS rebinding) comes
// with that name. When bound to every address, any address in digits is ours: only names can be
// rebound. NULL: false.
bool td_guard_host(const struct td_guard_names *names, const char *host);

enum td_guard_origin {
    TD_ORIGIN_NONE,    // no such header: no page of a browser asks
    TD_ORIGIN_SAME,    // our own page
    TD_ORIGIN_ALLOWED, // foreign, and on the list
    TD_ORIGIN_FOREIGN,
};
// origin against Host (which td_guard_host has passed) and the list; "*" on it allows all.
enum td_guard_origin td_guard_origin(const char *origin, const char *host, bool is_tls,
                                     const char *const *allowed, uint32_t n_allowed);

// application/json, with or without parameters. A form of a foreign page cannot send it without
// asking first. NULL: false.
bool td_guard_is_json(const char *content_type);

// Header names separated by commas, nothing else: what may be echoed in an answer to a preflight.
bool td_guard_is_token_list(const char *text);

// Whether the client takes gzip; no header (NULL) takes anything.
bool td_guard_takes_gzip(const char *accept_encoding);

// Requests per second and address: a bucket of one second's requests, at least 5, each. Addresses
// that meet in one slot of the table share it, so memory is bounded. Not thread-safe.
enum { TD_GUARD_BUCKETS = 4096 };
struct td_guard_rates {
    uint32_t per_s; // 0: no limit
    struct {
        uint64_t t_ns;
        double left;
    } buckets[TD_GUARD_BUCKETS];
};
bool td_guard_rate(struct td_guard_rates *r, uint64_t address, uint64_t now_ns);

#endif
