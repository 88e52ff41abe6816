// SPDX-License-Identifier: MIT
// See http_guard.h. Headers come from anybody: nothing here assumes that they are well formed.
#include "server/http_guard.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

// Digests of a fixed size are compared, so that neither the place of the first wrong byte nor the
// key's length shows in the time.
static bool is_same_secret(const char *a, const char *b)
{
    unsigned char x[SHA256_DIGEST_LENGTH], y[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)a, strlen(a), x);
    SHA256((const unsigned char *)b, strlen(b), y);
    return CRYPTO_memcmp(x, y, sizeof(x)) == 0;
}

bool td_guard_key(const char *key, const char *authorization, const char *x_api_key)
{
    if (!key) return true;
    const char *bearer = "";
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0) {
        bearer = authorization + 7;
        bearer += strspn(bearer, " ");
    }
    const bool by_bearer = is_same_secret(key, bearer);
    const bool by_header = is_same_secret(key, x_api_key ? x_api_key : "");
    return (by_bearer || by_header) && key[0];
}

enum { MAX_NAME = 256 };

// The name of "name", "name:port", "[v6]:port", in lower case and without brackets or a final
// point; false when it is none.
static bool host_name(const char *host, char *out)
{
    const char *end;
    if (host[0] == '[') {
        host++;
        end = strchr(host, ']');
        if (!end || (end[1] && end[1] != ':')) return false;
    } else {
        end = host + strcspn(host, ":");
    }
    const char *port = *end == ']' ? end + 1 : end;
    if (*port == ':' && strspn(port + 1, "0123456789") != strlen(port + 1)) return false;
    size_t n = (size_t)(end - host);
    if (n && host[n - 1] == '.') n--;
    if (n == 0 || n >= MAX_NAME) return false;
    for (size_t i = 0; i < n; i++) {
        const char c = host[i];
        out[i] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    }
    out[n] = '\0';
    return true;
}

static bool is_address(const char *name)
{
    unsigned char bytes[16];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

static bool is_loopback(const char *name)
{
    // localhost and what stands below it never leave the machine: RFC 6761, 6.3.
    const size_t n = strlen(name), tail = sizeof(".localhost") - 1;
    if (strcmp(name, "localhost") == 0) return true;
    if (n > tail && strcmp(name + n - tail, ".localhost") == 0) return true;
    unsigned char v4[4];
    if (inet_pton(AF_INET, name, v4) == 1) return v4[0] == 127;
    return strcmp(name, "::1") == 0;
}

static bool is_every_address(const char *bound)
{
    return strcmp(bound, "0.0.0.0") == 0 || strcmp(bound, "::") == 0;
}

bool td_guard_host(const struct td_guard_names *names, const char *host)
{
    char name[MAX_NAME], other[MAX_NAME];
    if (!host || !host_name(host, name)) return false;
    if (is_loopback(name)) return true;
    if (names->bound) {
        if (strcasecmp(name, names->bound) == 0) return true;
        if (is_every_address(names->bound) && is_address(name)) return true;
    }
    for (uint32_t i = 0; i < names->n_others; i++)
        if (strcasecmp(name, names->others[i]) == 0 ||
            (host_name(names->others[i], other) && strcmp(name, other) == 0))
            return true;
    return false;
}

// Where the default port is left out of one and not of the other, they still are the same.
static bool is_same_place(const char *a, const char *b, const char *port)
{
    const size_t n_a = strlen(a), n_b = strlen(b), n_port = strlen(port);
    if (n_a > n_b) return is_same_place(b, a, port);
    if (strncasecmp(a, b, n_a) != 0) return false;
    return n_a == n_b || (n_b == n_a + n_port && strcmp(b + n_a, port) == 0);
}

enum td_guard_origin td_guard_origin(const char *origin, const char *host, bool is_tls,
                                     const char *const *allowed, uint32_t n_allowed)
{
    if (!origin) return TD_ORIGIN_NONE;
    const char *scheme = is_tls ? "https://" : "http://";
    const size_t n = strlen(scheme);
    if (host && strncasecmp(origin, scheme, n) == 0 &&
        is_same_place(origin + n, host, is_tls ? ":443" : ":80"))
        return TD_ORIGIN_SAME;
    for (uint32_t i = 0; i < n_allowed; i++)
        if (strcmp(allowed[i], "*") == 0 || strcasecmp(allowed[i], origin) == 0)
            return TD_ORIGIN_ALLOWED;
    return TD_ORIGIN_FOREIGN;
}

bool td_guard_is_json(const char *content_type)
{
    static const char json[] = "application/json";
    if (!content_type) return false;
    content_type += strspn(content_type, " \t");
    if (strncasecmp(content_type, json, sizeof(json) - 1) != 0) return false;
    const char *rest = content_type + sizeof(json) - 1;
    rest += strspn(rest, " \t");
    return *rest == '\0' || *rest == ';';
}

bool td_guard_is_token_list(const char *text)
{
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ";
    return text && *text && strlen(text) <= 1024 && strspn(text, fine) == strlen(text);
}

bool td_guard_takes_gzip(const char *accept_encoding)
{
    if (!accept_encoding) return true;
    for (const char *at = accept_encoding; *at;) {
        at += strspn(at, " \t,");
        const size_t n = strcspn(at, ",");
        const size_t name = strcspn(at, " \t;,");
        const bool is_gzip =
            (name == 4 && strncasecmp(at, "gzip", 4) == 0) || (name == 1 && *at == '*');
        if (is_gzip) {
            // "gzip;q=0" refuses it.
            char rest[32] = "";
            const size_t n_rest = n - name < sizeof(rest) - 1 ? n - name : sizeof(rest) - 1;
            memcpy(rest, at + name, n_rest);
            const char *q = strstr(rest, "q=");
            if (!q || strspn(q + 2, "0.") != strcspn(q + 2, " \t")) return true;
        }
        at += n;
    }
    return false;
}

bool td_guard_rate(struct td_guard_rates *r, uint64_t address, uint64_t now_ns)
{
    if (!r->per_s) return true;
    const double most = r->per_s < 5 ? 5 : r->per_s;
    // Multiplying by the golden ratio spreads addresses that differ in a few bits.
    const uint64_t slot = (address * 0x9e3779b97f4a7c15u) >> 52;
    _Static_assert(TD_GUARD_BUCKETS == 1 << 12, "the shift takes 12 bits");
    double *left = &r->buckets[slot].left;
    if (r->buckets[slot].t_ns == 0)
        *left = most;
    else
        *left += (double)(now_ns - r->buckets[slot].t_ns) * 1e-9 * r->per_s;
    if (*left > most) *left = most;
    r->buckets[slot].t_ns = now_ns;
    if (*left < 1) return false;
    *left -= 1;
    return true;
}
