// SPDX-License-Identifier: MIT
// The fault proxy as a program, for campaigns against real processes:
//   fault_proxy LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT [PLAN WORDS...]
// First it prints `port N`. Then it obeys lines on its input until that ends: `begin PLAN...`
// resets what is open and begins a plan, answered by `ok`; `count` is answered by one line `count
// CONNS HIT OPEN` and then `TO FROM` bytes of each connection. Whenever a fault comes to pass it
// prints `hit NUMBER`.
#include "fault_proxy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void say_hit(void *ctx, uint32_t i_fault, const struct fault *fault)
{
    (void)ctx;
    (void)fault;
    printf("hit %u\n", i_fault);
    (void)fflush(stdout);
}

static bool begin(struct fault_proxy *p, const char *text)
{
    struct fault_plan plan;
    char why[160];
    if (!fault_plan_parse(&plan, text, why, sizeof(why))) {
        fprintf(stderr, "fault_proxy: %s\n", why);
        return false;
    }
    fault_proxy_begin(p, &plan);
    return true;
}

static void say_count(struct fault_proxy *p)
{
    struct fault_count c;
    fault_proxy_count(p, &c);
    printf("count %u %u %u", c.n_conns, c.n_hit, c.n_open);
    for (uint32_t i = 0; i < c.n_conns && i < FAULT_MAX_CONNS; i++)
        printf(" %llu %llu", (unsigned long long)c.bytes[i][FAULT_TO_SERVER],
               (unsigned long long)c.bytes[i][FAULT_TO_CLIENT]);
    printf("\n");
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: fault_proxy LISTEN_HOST LISTEN_PORT TO_HOST TO_PORT [PLAN...]\n");
        return 2;
    }
    struct fault_proxy *p = fault_proxy_open(argv[1], (uint16_t)strtoul(argv[2], NULL, 10), argv[3],
                                             (uint16_t)strtoul(argv[4], NULL, 10));
    if (!p) {
        fprintf(stderr, "fault_proxy: cannot listen on %s port %s\n", argv[1], argv[2]);
        return 1;
    }
    fault_proxy_watch(p, NULL, say_hit);
    char line[2048] = "";
    size_t n = 0;
    for (int i = 5; i < argc && n < sizeof(line); i++)
        n += (size_t)snprintf(line + n, sizeof(line) - n, " %s", argv[i]);
    bool is_fine = begin(p, line);
    printf("port %u\n", fault_proxy_port(p));
    (void)fflush(stdout);
    while (is_fine && fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        if (strcmp(line, "count") == 0) {
            say_count(p);
        } else if (strncmp(line, "begin", 5) == 0) {
            is_fine = begin(p, line + 5);
            if (is_fine) printf("ok\n");
        } else {
            fprintf(stderr, "fault_proxy: not understood: '%s'\n", line);
            is_fine = false;
        }
        (void)fflush(stdout);
    }
    fault_proxy_close(p);
    return is_fine ? 0 : 1;
}
